"""The signing envelope: DSSE with Ed25519, in one canonical form, so that no byte of it can change unnoticed.

Source: DSSE v1.0.2, protocol and envelope. Stricter than it: the file is the RFC 8785 form and a newline, Base64 is the
standard alphabet, and *every* signature must be of a trusted key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tritium.errors import FormatError
from tritium.receipts.jcs import canonical
from tritium.receipts.keys import PublicKey, decode_base64, encode_base64
from tritium.receipts.notes import MAX_SIGNATURES, Signs
from tritium.receipts.strict_json import loads

PAYLOAD_TYPE = "application/vnd.in-toto+json"


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return what is signed: "DSSEv1" SP len(type) SP type SP len(payload) SP payload, lengths in bytes, ASCII decimal."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature and the id of the key that is said to have made it."""

    key_id: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload, its media type, and the signatures over both."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    def to_bytes(self) -> bytes:
        """Return the file: the RFC 8785 form and a newline."""
        signatures = [{"keyid": each.key_id, "sig": encode_base64(each.value)} for each in self.signatures]
        document = {
            "payload": encode_base64(self.payload),
            "payloadType": self.payload_type,
            "signatures": signatures,
        }
        return canonical(document) + b"\n"

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def is_envelope(document: object) -> bool:
    """Tell whether parsed JSON is meant as an envelope rather than as a bare receipt."""
    return isinstance(document, dict) and {"payload", "payloadType", "signatures"} <= set(document)


def parse_envelope(data: bytes, where: str) -> Envelope:
    """Read an envelope. Errors: FormatError if it is none, or not in the one form that its signer writes."""
    document = loads(data)
    if not isinstance(document, dict) or set(document) != {"payload", "payloadType", "signatures"}:
        raise FormatError("not an envelope", where=where, expected="an object of payload, payloadType and signatures")
    rows, kind = document["signatures"], document["payloadType"]
    if not isinstance(kind, str) or not isinstance(rows, list) or not 1 <= len(rows) <= MAX_SIGNATURES:
        raise FormatError("not an envelope", where=where, expected=f"a type and 1 to {MAX_SIGNATURES} signatures")
    signatures = []
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or set(row) != {"keyid", "sig"} or not isinstance(row["keyid"], str):
            raise FormatError("not a signature", where=f"{where}: signatures[{number}]", expected="keyid and sig")
        signatures.append(Signature(row["keyid"], _base64(row["sig"], f"{where}: signatures[{number}].sig")))
    envelope = Envelope(kind, _base64(document["payload"], f"{where}: payload"), tuple(signatures))
    if envelope.to_bytes() != data:
        raise FormatError(
            "an envelope in another form", where=where, expected="the RFC 8785 form and one newline",
            hint="It was written again, or edited, after signing",
        )  # fmt: skip
    return envelope


def _base64(text: object, where: str) -> bytes:
    value = decode_base64(text) if isinstance(text, str) else None
    if value is None:
        raise FormatError("not Base64", where=where, expected="the standard alphabet, padded, no stray bits")
    return value


def sign_payload(payload: bytes, signers: Sequence[Signs], payload_type: str = PAYLOAD_TYPE) -> Envelope:
    """Return an envelope that each signer signed."""
    message = pae(payload_type, payload)
    return Envelope(payload_type, payload, tuple(Signature(each.public.id, each.sign(message)) for each in signers))


def signature_fault(envelope: Envelope, find: Callable[[str], PublicKey | None]) -> str | None:
    """Return why the signatures are not to be accepted, or None: all of them are valid, of known keys, each key once.

    ``find`` gives the trusted key of an id. The payload means nothing before this is None.
    """
    ids = [each.key_id for each in envelope.signatures]
    if len(set(ids)) < len(ids):
        return f"key {next(each for each in ids if ids.count(each) > 1)} signed twice"
    message = pae(envelope.payload_type, envelope.payload)
    for each in envelope.signatures:
        key = find(each.key_id)
        if key is None:
            return f"unknown key {each.key_id[:80]!r}"
        if not key.verifies(message, each.value):
            return f"the signature of key {key.id} is wrong"
    return None if ids else "no signature"
