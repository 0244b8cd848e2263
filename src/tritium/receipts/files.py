"""Write files so that they are there whole or not at all; read no more of one than a document may hold."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from tritium.receipts.strict_json import MAX_BYTES


def read_document(path: Path) -> bytes:
    """The bytes of a file, up to one more than ``strict_json`` takes: no device and no stranger's file fills the memory.

    Errors: OSError.
    """
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text under its name only once it is on the disk; the folder is made. Errors: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
