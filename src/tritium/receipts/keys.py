"""Public keys, their ids, and the trust file that says which key may sign what, and when.

A key's id is the SHA-256 of its SubjectPublicKeyInfo in DER, so that
``openssl pkey -pubin -in key.pub -outform DER | sha256sum`` gives it too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tritium.errors import FormatError
from tritium.receipts import ed25519, strict_json
from tritium.receipts.files import read_document

SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")
"""DER of a SubjectPublicKeyInfo for Ed25519 up to the 32 bytes of the key. Source: RFC 8410, section 4."""
ROLES = ("receipt", "log", "verdict")
"""What a key may sign: receipts, a log's checkpoints, or verdicts."""
_PEM = re.compile(r"\s*-----BEGIN PUBLIC KEY-----\s+([A-Za-z0-9+/=\s]+?)\s+-----END PUBLIC KEY-----\s*")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")


def decode_base64(text: str) -> bytes | None:
    """Return the bytes of standard Base64 with padding, or None unless ``text`` is their one encoding (RFC 4648)."""
    try:
        value = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return None
    return value if base64.b64encode(value).decode("ascii") == text else None


def encode_base64(value: bytes) -> str:
    """Return standard Base64 with padding."""
    return base64.b64encode(value).decode("ascii")


def parse_time(text: object, where: str) -> datetime:
    """Return an RFC 3339 time with its offset. Errors: FormatError naming ``where``."""
    if isinstance(text, str) and _TIME.fullmatch(text):
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            pass
    raise FormatError("not a time", where=where, expected="RFC 3339 with an offset", got=repr(text))


def format_time(moment: datetime) -> str:
    """Return RFC 3339 in UTC, to the microsecond where there is a fraction: 2026-01-31T12:00:00Z."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key: 32 bytes. Errors: FormatError if they are no usable point."""

    raw: bytes

    def __post_init__(self) -> None:
        if not ed25519.is_public_key(self.raw):
            raise FormatError("not an Ed25519 public key", expected="a canonical point of large order")

    @property
    def id(self) -> str:
        """SHA-256 of the DER form, 64 hex digits."""
        return hashlib.sha256(SPKI_PREFIX + self.raw).hexdigest()

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Tell whether the signature is this key's over the message."""
        return ed25519.is_valid(self.raw, message, signature)

    def to_pem(self) -> str:
        """Return the PEM form of the SubjectPublicKeyInfo."""
        return f"-----BEGIN PUBLIC KEY-----\n{encode_base64(SPKI_PREFIX + self.raw)}\n-----END PUBLIC KEY-----\n"


def parse_public_key(pem: str, where: str) -> PublicKey:
    """Read a PEM SubjectPublicKeyInfo of an Ed25519 key. Errors: FormatError naming ``where``."""
    match = _PEM.fullmatch(pem)
    der = decode_base64("".join(match[1].split())) if match else None
    if der is None or len(der) != len(SPKI_PREFIX) + 32 or not der.startswith(SPKI_PREFIX):
        raise FormatError("not a public key", where=where, expected="one PEM block PUBLIC KEY of an Ed25519 key")
    return PublicKey(der[len(SPKI_PREFIX) :])


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key, what it may sign, and while. Bounds that are None do not bind; the end is exclusive.

    From ``revoked_at`` on the key may be in other hands: a time that its holder states himself proves nothing then.
    """

    key: PublicKey
    name: str
    roles: frozenset[str]
    not_before: datetime | None = None
    not_after: datetime | None = None
    revoked_at: datetime | None = None

    def covers(self, moment: datetime) -> bool:
        """Tell whether the key is to be used at that time."""
        ends = [end for end in (self.not_after, self.revoked_at) if end is not None]
        return (self.not_before is None or self.not_before <= moment) and all(moment < end for end in ends)


@dataclass(frozen=True, slots=True)
class Trust:
    """The keys that a verifier trusts, by id; retired ones stay, with their end."""

    keys: Mapping[str, TrustedKey]

    @classmethod
    def of(cls, keys: Iterable[TrustedKey]) -> Trust:
        """Index keys by id."""
        return cls({trusted.key.id: trusted for trusted in keys})

    def with_role(self, role: str) -> list[TrustedKey]:
        """Return the keys that may sign for a role."""
        return [trusted for trusted in self.keys.values() if role in trusted.roles]


def trust_document(trust: Trust) -> dict[str, object]:
    """Return the JSON form of a trust file."""
    rows = []
    for trusted in trust.keys.values():
        row: dict[str, object] = {
            "key_id": trusted.key.id,
            "name": trusted.name,
            "public_key": encode_base64(SPKI_PREFIX + trusted.key.raw),
            "roles": [role for role in ROLES if role in trusted.roles],
        }
        for field in ("not_before", "not_after", "revoked_at"):
            moment = getattr(trusted, field)
            if moment is not None:
                row[field] = format_time(moment)
        rows.append(row)
    return {"keys": rows, "version": 1}


def read_trust(path: Path) -> Trust:
    """The keys of a trust file. Errors: FormatError as of ``parse_trust``, or for text that is not strict JSON; OSError."""
    try:
        document = strict_json.loads(read_document(path))
    except FormatError as error:
        hint = "tritium keygen --trust writes one"
        raise FormatError("not a trust file", where=str(path), expected="JSON", got=str(error), hint=hint) from None
    return parse_trust(document, str(path))


def parse_trust(document: object, where: str) -> Trust:
    """Read a trust file's JSON: {"version": 1, "keys": [{"public_key", "name", "roles", …}]}.

    ``public_key`` is the Base64 of the DER form. Errors: FormatError for an unknown field, a wrong id, a key named twice.
    """
    if not isinstance(document, dict) or set(document) != {"keys", "version"} or document["version"] != 1:
        raise FormatError("not a trust file", where=where, expected='an object of "version" 1 and "keys"')
    if not isinstance(document["keys"], list):
        raise FormatError("not a trust file", where=f"{where}: keys", expected="a list")
    found: dict[str, TrustedKey] = {}
    for number, row in enumerate(document["keys"]):
        trusted = _trusted_key(row, f"{where}: keys[{number}]")
        if trusted.key.id in found:
            raise FormatError("a key is listed twice", where=f"{where}: keys[{number}]", got=trusted.key.id)
        found[trusted.key.id] = trusted
    return Trust(found)


def _trusted_key(row: object, where: str) -> TrustedKey:
    known = {"key_id", "public_key", "name", "roles", "not_before", "not_after", "revoked_at"}
    if not isinstance(row, dict) or not {"public_key", "name", "roles"} <= set(row) <= known:
        raise FormatError("not a trusted key", where=where, expected=f"an object of {sorted(known)}")
    name, roles, text = row["name"], row["roles"], row["public_key"]
    if not isinstance(name, str) or not name.isprintable() or not name:
        raise FormatError("not a name", where=f"{where}.name", got=repr(name))
    if not isinstance(roles, list) or not roles or not all(role in ROLES for role in roles):
        raise FormatError("not a list of roles", where=f"{where}.roles", expected=f"some of {list(ROLES)}", got=roles)
    der = decode_base64(text) if isinstance(text, str) else None
    if der is None or len(der) != len(SPKI_PREFIX) + 32 or not der.startswith(SPKI_PREFIX):
        raise FormatError("not a public key", where=f"{where}.public_key", expected="Base64 of an Ed25519 key in DER")
    key = PublicKey(der[len(SPKI_PREFIX) :])
    if row.get("key_id", key.id) != key.id:
        raise FormatError("the key has another id", where=f"{where}.key_id", expected=key.id, got=row["key_id"])
    times = {
        field: parse_time(row[field], f"{where}.{field}")
        for field in ("not_before", "not_after", "revoked_at")
        if field in row
    }
    return TrustedKey(key, name, frozenset(roles), **times)
