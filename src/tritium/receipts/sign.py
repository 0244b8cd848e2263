"""Private keys: made, written, read, used. The one place that needs the package ``cryptography``, the extra "sign".

A private key is a PKCS #8 PEM file of mode 0600. Nothing here prints a key or puts it into a message.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from tritium.errors import FormatError, UnsupportedError
from tritium.filesystem import create, others_may
from tritium.receipts.keys import PublicKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_KEY_BYTES = 4096


class PrivateKey:
    """An Ed25519 private key that signs (``notes.Signs``); its text forms do not show it."""

    __slots__ = ("_key", "public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"PrivateKey(public id {self.public.id})"

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the signature (RFC 8032, pure Ed25519)."""
        return self._key.sign(message)

    def to_pem(self) -> bytes:
        """Return the unencrypted PKCS #8 PEM form."""
        from cryptography.hazmat.primitives import serialization

        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def _missing() -> UnsupportedError:
    return UnsupportedError(
        "signing needs the package cryptography", hint="Install it with: pip install 'tritium[sign]'"
    )


def generate_key() -> PrivateKey:
    """Make a new key. Errors: UnsupportedError without the extra "sign"."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError:
        raise _missing() from None
    return PrivateKey(Ed25519PrivateKey.generate())


def private_key_from_seed(seed: bytes) -> PrivateKey:
    """Return the key of 32 bytes (RFC 8032, section 5.1.5); for published test vectors. Errors: UnsupportedError."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError:
        raise _missing() from None
    return PrivateKey(Ed25519PrivateKey.from_private_bytes(seed))


def read_private_key(path: Path) -> PrivateKey:
    """Read a PKCS #8 PEM file. Others must not be able to read it.

    Errors: OSError; FormatError if it is no Ed25519 key, is encrypted, or its mode is too open; UnsupportedError without
    the extra "sign".
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError:
        raise _missing() from None
    with path.open("rb") as file:
        facts = os.fstat(file.fileno())
        data = file.read(MAX_KEY_BYTES)
    if others_may(facts):
        raise FormatError(
            "a private key that others may read", where=str(path), expected="mode 0600", got=f"{stat.S_IMODE(facts.st_mode):04o}",
            hint=f"chmod 600 {path}; if others may have read it, make a new one",
        )  # fmt: skip
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        # The parser's own words may quote the file.
        raise FormatError("not a private key", where=str(path), expected="an unencrypted Ed25519 key in PKCS #8 PEM")
    return PrivateKey(key)


def write_key_pair(key: PrivateKey, path: Path, *, force: bool = False) -> Path:
    """Write the private key to ``path``, mode 0600, and the public one beside it with the suffix .pub, which is returned.

    Errors: FileExistsError if either is there, unless ``force``; then the old file is replaced, never written into.
    """
    public = path.with_name(path.name + ".pub")
    if force:
        path.unlink(missing_ok=True)
        public.unlink(missing_ok=True)
    elif public.exists() or public.is_symlink():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(public))
    for target, content, mode in ((path, key.to_pem(), 0o600), (public, key.public.to_pem().encode(), 0o644)):
        with os.fdopen(create(target, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    return public
