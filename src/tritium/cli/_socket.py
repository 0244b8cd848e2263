"""One question and one answer over a local socket: each side sends until it has no more to say."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

from tritium.errors import FormatError, UnsupportedError

MAX_QUESTION = 8 << 20
MAX_ANSWER = 1 << 31
_SECONDS = 600
_PIECE = 1 << 20


def ask(path: Path, question: bytes) -> bytes:
    """Send a question to the server at ``path``; its whole answer.

    Errors: OSError; FormatError for an answer without end; UnsupportedError where the system has no local sockets.
    """
    with local_socket() as connection:
        connection.settimeout(_SECONDS)
        connection.connect(os.fspath(path))
        connection.sendall(question)
        connection.shutdown(socket.SHUT_WR)
        return _all(connection, MAX_ANSWER)


def serve(path: Path, answer: Callable[[bytes], bytes], n: int | None) -> None:
    """Answer ``n`` questions (None: without end), one after the other; only this user may ask. Errors: as ``ask``."""
    with local_socket() as server:
        before = os.umask(0o177)
        try:
            server.bind(os.fspath(path))
        finally:
            os.umask(before)
        try:
            server.listen(1)
            while n is None or n > 0:
                connection, _ = server.accept()
                with connection, contextlib.suppress(ConnectionError, TimeoutError):
                    connection.settimeout(_SECONDS)
                    connection.sendall(answer(_all(connection, MAX_QUESTION)))
                n = None if n is None else n - 1
        finally:
            path.unlink(missing_ok=True)


def local_socket() -> socket.socket:
    """A socket that only programs of this machine reach. Errors: UnsupportedError where the system has none."""
    if not hasattr(socket, "AF_UNIX"):
        raise UnsupportedError("local sockets are not available here", hint="Exchange challenge and answer as files")
    return socket.socket(socket.AF_UNIX)


def _all(connection: socket.socket, most: int) -> bytes:
    pieces, size = [], 0
    while piece := connection.recv(_PIECE):
        size += len(piece)
        if size > most:
            raise FormatError("message", where="socket", expected=f"at most {most} bytes")
        pieces.append(piece)
    return b"".join(pieces)
