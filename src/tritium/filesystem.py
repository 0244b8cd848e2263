"""What systems do differently with files: who may read one, locks, names that reach the disk, what stands in a file's place."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

HAS_MODES = hasattr(os, "geteuid")
"""Files have an owner and a mode. On Windows the folder's access list rules; a user's profile lets no other user in."""
PRIVATE = "mode 0600" if HAS_MODES else "as private as its folder"
MAPPED_MAY_MOVE = HAS_MODES
"""A file that is mapped may be renamed and deleted."""

# A flag that a system lacks is 0; where there is O_BINARY, descriptors would be text without it.
_ALWAYS = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOINHERIT", "O_BINARY"))
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def open_to_read(path: Path) -> int:
    """A descriptor. A link is not followed, where the system can tell, and a pipe's writer not waited for. Errors: OSError."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _NO_LINK | _ALWAYS)


def create(path: Path, mode: int) -> int:
    """A descriptor to write a file that was not there, of just this mode. Errors: FileExistsError; OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | _ALWAYS, mode)
    if HAS_MODES:
        os.fchmod(descriptor, mode)
    return descriptor


def others_may(facts: os.stat_result) -> int:
    """The bits of a file's mode that are for others than its owner."""
    return stat.S_IMODE(facts.st_mode) & 0o077 if HAS_MODES else 0


def is_own(facts: os.stat_result) -> bool:
    """True for a file of the user who asks."""
    return not HAS_MODES or facts.st_uid == os.geteuid()


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk. Windows opens no folder; its file system logs renames by itself."""
    if HAS_MODES:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made; the system lets go of it when the process ends, however it ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _ALWAYS, 0o644)
    try:
        try:
            import fcntl
        except ImportError:
            _lock_byte(descriptor)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock_byte(descriptor: int) -> None:
    """The first byte of the file, as Windows locks; it gives up after ten seconds, so it is asked again."""
    import msvcrt

    while True:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined]
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EDEADLK):
                raise
        else:
            return
