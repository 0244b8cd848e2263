"""A proof that an entry is in a log, as a text that can be checked without the log.

Source: C2SP tlog-proof v1; the extra data is the entry itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tritium.errors import FormatError, GateError
from tritium.receipts.keys import PublicKey, Trust, decode_base64, encode_base64
from tritium.receipts.ledger import Inclusion, open_trusted
from tritium.receipts.merkle import HASH_BYTES, is_consistent
from tritium.receipts.notes import MAX_LOG_SIZE, MAX_NOTE_BYTES, Checkpoint
from tritium.receipts.tiles import MAX_ENTRY_BYTES

HEADER = "c2sp.org/tlog-proof@v1"
MAX_PROOF_BYTES = MAX_NOTE_BYTES + 2 * MAX_ENTRY_BYTES
MAX_HASHES = 63


def encode_proof(proof: Inclusion) -> str:
    """Return the text of a proof: header, entry, index, hashes, an empty line, the checkpoint as signed."""
    lines = [HEADER, f"extra {encode_base64(proof.entry)}", f"index {proof.index}", *map(encode_base64, proof.hashes)]
    return "\n".join(lines) + "\n\n" + proof.checkpoint.text


def read_proof_text(path: Path) -> str:
    """Return a proof's text. Errors: OSError; FormatError if it is too long or no UTF-8."""
    with path.open("rb") as file:
        data = file.read(MAX_PROOF_BYTES + 1)
    if len(data) > MAX_PROOF_BYTES:
        raise FormatError("not a proof", where=str(path), expected=f"at most {MAX_PROOF_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError("not a proof", where=str(path), expected="UTF-8") from None


def split_proof(text: str, where: str) -> tuple[bytes, int, tuple[bytes, ...], str]:
    """Return entry, index, hashes and the checkpoint's note, none of them verified. Errors: FormatError."""
    head, separator, note = text.partition("\n\n")
    lines = head.split("\n")
    if not separator or len(lines) < 3 or len(lines) > 3 + MAX_HASHES or lines[0] != HEADER:
        raise FormatError("not a proof", where=where, expected=f"the header {HEADER}, extra, index and hashes")
    entry = decode_base64(lines[1].removeprefix("extra ")) if lines[1].startswith("extra ") else None
    index = lines[2].removeprefix("index ")
    is_index = lines[2].startswith("index ") and index.isascii() and index.isdigit() and len(index) <= 16
    if entry is None or len(entry) > MAX_ENTRY_BYTES or not is_index or str(int(index)) != index:
        raise FormatError("not a proof", where=where, expected="an entry in Base64 and a decimal index")
    hashes = [decode_base64(line) or b"" for line in lines[3:]]
    if int(index) >= MAX_LOG_SIZE or any(len(each) != HASH_BYTES for each in hashes):
        raise FormatError("not a proof", where=where, expected="hashes of 32 bytes in Base64")
    return entry, int(index), tuple(hashes), note


def parse_proof(text: str, trust: Trust, where: str) -> tuple[Inclusion, PublicKey]:
    """Read a proof, verify its checkpoint, and return both with the log's key; ``Inclusion.holds`` judges the hashes.

    Errors: FormatError if it is no proof; GateError if no trusted key signed the checkpoint.
    """
    entry, index, hashes, note = split_proof(text, where)
    checkpoint, key = open_trusted(note, trust, where)
    return Inclusion(entry, index, hashes, checkpoint), key


def encode_consistency(old_size: int, hashes: Sequence[bytes], new: Checkpoint) -> str:
    """Return a consistency proof as text: "old" and a size, hashes, an empty line, the newer checkpoint.

    Source: the request of C2SP tlog-witness.
    """
    return "\n".join([f"old {old_size}", *map(encode_base64, hashes)]) + "\n\n" + new.text


def check_consistency(text: str, old: Checkpoint, trust: Trust, where: str) -> Checkpoint:
    """Return the newer checkpoint of a consistency proof, once it is shown to continue ``old``.

    Errors: FormatError if it is no such proof; GateError if it proves nothing about ``old``.
    """
    head, _, note = text.partition("\n\n")
    lines = head.split("\n")
    hashes = [decode_base64(line) or b"" for line in lines[1:]]
    if not lines[0].startswith("old ") or len(hashes) > 2 * MAX_HASHES or any(len(h) != HASH_BYTES for h in hashes):
        raise FormatError("not a proof of consistency", where=where, expected='"old", a size, and hashes in Base64')
    new, _ = open_trusted(note, trust, where)
    is_same_log = lines[0] == f"old {old.size}" and new.origin == old.origin
    if not is_same_log or not is_consistent(old.size, old.root, new.size, new.root, hashes):
        raise GateError(
            "the newer checkpoint does not continue the older one", where=where,
            expected=f"{old.origin}, {old.size} entries, root {old.root.hex()}", got=f"{new.origin}, {lines[0]}",
        )  # fmt: skip
    return new
