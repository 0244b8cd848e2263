"""Signed notes and the checkpoints of a log.

Sources: C2SP signed-note v1.0.0 and tlog-checkpoint v1.0.0; signature type 0x01, Ed25519.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from tritium.errors import FormatError, GateError
from tritium.receipts.keys import PublicKey, decode_base64, encode_base64
from tritium.receipts.merkle import HASH_BYTES

DASH = "\N{EM DASH}"
ED25519_TYPE = b"\x01"
MAX_NOTE_BYTES = 64 << 10
MAX_SIGNATURES = 16
MAX_LOG_SIZE = 1 << 53
"""Sizes and indices stay below this, so that JSON numbers hold them exactly."""


class Signs(Protocol):
    """What signs: a private key, somewhere."""

    @property
    def public(self) -> PublicKey:
        """The key that verifies what this one signs."""

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of an Ed25519 signature."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's promise: these many entries, this root. ``text`` is the note as signed, signatures included."""

    origin: str
    size: int
    root: bytes
    text: str


def is_key_name(name: str) -> bool:
    """Tell whether a log may be called so: not empty, printable, no space, no plus sign."""
    return bool(name) and name.isprintable() and not any(c.isspace() or c == "+" for c in name)


def note_key_id(name: str, key: PublicKey) -> bytes:
    """Return SHA-256(name ‖ 0x0A ‖ 0x01 ‖ key)[:4]."""
    return hashlib.sha256(name.encode() + b"\n" + ED25519_TYPE + key.raw).digest()[:4]


def verifier_key(name: str, key: PublicKey) -> str:
    """Return the one-line form in which tools of the C2SP family take a public key: name+id+base64(type ‖ key)."""
    return f"{name}+{note_key_id(name, key).hex()}+{encode_base64(ED25519_TYPE + key.raw)}"


def sign_note(text: str, name: str, signer: Signs) -> str:
    """Return the note: the text, an empty line, one signature line. ``text`` ends in a newline."""
    signature = note_key_id(name, signer.public) + signer.sign(text.encode())
    return f"{text}\n{DASH} {name} {encode_base64(signature)}\n"


def open_note(note: str, name: str, keys: Iterable[PublicKey], where: str) -> tuple[str, PublicKey]:
    """Return a note's text and the key among ``keys`` whose signature, under ``name``, it bears.

    Signatures of unknown keys are ignored. Errors: FormatError if it is no note; GateError if a known key's signature
    is wrong, appears twice, or none is there.
    """
    is_text = not any((c < " " and c != "\n") or "\ud800" <= c <= "\udfff" for c in note)
    if not is_text or len(note.encode()) > MAX_NOTE_BYTES:
        raise FormatError("not a signed note", where=where, expected=f"text of at most {MAX_NOTE_BYTES} bytes")
    text, separator, block = note.rpartition("\n\n")
    lines = block.split("\n")
    if not separator or not text or lines.pop() != "" or not 1 <= len(lines) <= MAX_SIGNATURES:
        raise FormatError("not a signed note", where=where, expected="a text, an empty line and signature lines")
    text += "\n"
    known = {note_key_id(name, key): key for key in keys}
    signed_by: PublicKey | None = None
    for line in lines:
        parts = line.split(" ")
        value = decode_base64(parts[2]) if len(parts) == 3 and parts[0] == DASH and is_key_name(parts[1]) else None
        if value is None or len(value) < 5:
            raise FormatError("not a signature line", where=where, got=repr(line[:80]))
        key = known.get(value[:4]) if parts[1] == name else None
        if key is None:
            continue
        if signed_by is not None:
            raise GateError("a note is signed twice by one log", where=where, got=name)
        if not key.verifies(text.encode(), value[4:]):
            raise GateError("the signature of a note is wrong", where=where, got=f"{name}, key {key.id}")
        signed_by = key
    if signed_by is None:
        raise GateError(
            "no trusted key signed the note", where=where, expected=f"a signature of {name}",
            hint='A log\'s key needs the role "log" in the trust file',
        )  # fmt: skip
    return text, signed_by


def sign_checkpoint(origin: str, size: int, root: bytes, signer: Signs) -> Checkpoint:
    """Sign size and root under the log's own name. Errors: FormatError if ``origin`` cannot be a name."""
    if not is_key_name(origin):
        raise FormatError("not a name for a log", expected="printable text without spaces or '+'", got=repr(origin))
    text = f"{origin}\n{size}\n{encode_base64(root)}\n"
    return Checkpoint(origin, size, root, sign_note(text, origin, signer))


def read_origin(note: str) -> str:
    """Return the name on the first line of a checkpoint, before anything is verified."""
    return note.split("\n", 1)[0]


def open_checkpoint(note: str, origin: str, keys: Iterable[PublicKey], where: str) -> tuple[Checkpoint, PublicKey]:
    """Verify a checkpoint of the log called ``origin``. Errors: as ``open_note``; FormatError if the text is no checkpoint."""
    text, key = open_note(note, origin, keys, where)
    lines = text.split("\n")[:-1]
    if len(lines) < 3 or not all(lines) or lines[0] != origin:
        raise FormatError("not a checkpoint", where=where, expected=f"the lines {origin}, size, root")
    size, root = lines[1], decode_base64(lines[2])
    digits = size.isascii() and size.isdigit() and str(int(size[:20])) == size
    if not digits or int(size) >= MAX_LOG_SIZE or root is None or len(root) != HASH_BYTES:
        raise FormatError("not a checkpoint", where=where, expected="a decimal size and a Base64 root of 32 bytes")
    return Checkpoint(origin, int(size), root, note), key
