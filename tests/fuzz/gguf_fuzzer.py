"""Arbitrary bytes as a GGUF file: all of it can be read, or it is refused with an error of ours that names the file."""

from __future__ import annotations

import contextlib
import os
import sys

import atheris

from tritium.engine.tokenizer import Tokenizer
from tritium.errors import FormatError, UnsupportedError
from tritium.formats.gguf import StringArray, open_gguf
from tritium.models import build_graph

MEMORY = os.memfd_create("fuzzed.gguf")
PATH = f"/proc/self/fd/{MEMORY}"


def fuzz(data: bytes) -> None:
    """Read everything that the file claims to hold, then take it for a model."""
    os.ftruncate(MEMORY, 0)
    os.pwrite(MEMORY, data, 0)
    try:
        with open_gguf(PATH) as file:
            for value in file.metadata.values():
                if isinstance(value, StringArray):
                    list(value)
            for name in file.tensors:
                file.check(name)
            with contextlib.suppress(FormatError, UnsupportedError):
                Tokenizer.from_gguf(file)
            with contextlib.suppress(FormatError, UnsupportedError):
                build_graph(file)
    except (FormatError, UnsupportedError) as error:
        if PATH not in str(error):
            raise AssertionError("the error does not name the file") from error


if __name__ == "__main__":
    # All, because the finder of an editable installation keeps atheris from instrumenting our modules as they are imported.
    atheris.instrument_all()
    atheris.Setup(sys.argv, fuzz)
    atheris.Fuzz()
