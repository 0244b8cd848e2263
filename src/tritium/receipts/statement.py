"""What is signed: a receipt, its subjects and its intent as an in-toto Statement; a verdict as a verification result.

Sources: in-toto attestation framework v1, Statement; Simple Verification Result v0.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from tritium.errors import FormatError
from tritium.receipts.jcs import canonical, digest
from tritium.receipts.keys import format_time, parse_time
from tritium.receipts.strict_json import loads

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
RECEIPT_TYPE = "urn:tritium:inference-receipt:v1"
"""The predicate type of a signed receipt: an identifier, no address."""
RESULT_TYPE = "https://in-toto.io/attestation/svr/v0.1"
VERIFIER_ID = "urn:tritium:verify-receipt:v1"
MAX_NONCE = 128
MIN_INTERVALS = 3
"""Fewer intervals between tokens do not tell one run from another."""

SUBJECTS = (
    ("model file", "sha256", ("evidence", "model", "sha256")),
    ("model tensors", "tritiumTensorRoot", ("evidence", "model", "tensors_sha256")),
    ("tokenizer", "sha256", ("evidence", "model", "tokenizer_sha256")),
    ("native library", "sha256", ("evidence", "build", "library_sha256")),
    ("source", "gitCommit", ("evidence", "build", "commit")),
    ("prompt ids", "sha256", ("evidence", "run", "prompt_sha256")),
    ("output ids", "sha256", ("evidence", "run", "output_sha256")),
)
"""Name of a subject, its digest's algorithm, and where the receipt holds it; a receipt without it has no such subject."""


def field(document: object, path: tuple[str, ...]) -> Any:
    """Return a nested field, or None where there is none."""
    for name in path:
        if not isinstance(document, dict):
            return None
        document = document.get(name)
    return document


def receipt_id(receipt: Mapping[str, Any]) -> str:
    """Return SHA-256 of the RFC 8785 form, in hexadecimal: spelling and order of keys do not change it."""
    return digest(receipt)


def model_sha256(receipt: Mapping[str, Any]) -> str | None:
    """Return the hash of the model file, from the evidence, else from the top level."""
    for path in (("evidence", "model", "sha256"), ("model", "sha256")):
        value = field(receipt, path)
        if isinstance(value, str):
            return value
    return None


def timing_sha256(receipt: Mapping[str, Any]) -> str | None:
    """Return SHA-256 of the intervals between tokens in ns, as canonical JSON; None where there are fewer than three.

    Two runs never share it; a receipt that was given another name does.
    """
    times = field(receipt, ("evidence", "run", "token_ns"))
    if not isinstance(times, list) or len(times) <= MIN_INTERVALS:
        return None
    if not all(type(each) is int and each >= 0 for each in times):
        return None
    return digest([later - earlier for earlier, later in pairwise(times)])


def subjects(receipt: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the receipt is about, in the order of ``SUBJECTS``, the receipt itself first."""
    found: list[dict[str, Any]] = [{"name": "receipt", "digest": {"sha256": receipt_id(receipt)}}]
    for name, algorithm, path in SUBJECTS:
        value = field(receipt, path)
        if name == "model file" and value is None:
            value = model_sha256(receipt)
        if isinstance(value, str):
            found.append({"name": name, "digest": {algorithm: value}})
            if name == "source":
                found[-1]["annotations"] = {"dirty": field(receipt, ("evidence", "build", "dirty")) is not False}
    return found


def check_nonce(nonce: object, where: str) -> str:
    """Return a nonce: printable ASCII, 1 to 128 characters, no space. Errors: FormatError."""
    if not isinstance(nonce, str) or not 1 <= len(nonce) <= MAX_NONCE or not all("!" <= c <= "~" for c in nonce):
        raise FormatError("not a nonce", where=where, expected=f"1 to {MAX_NONCE} printable ASCII characters, no space")
    return nonce


@dataclass(frozen=True, slots=True)
class IntentReference:
    """Where the run was announced: the log's name, the entry's index and its leaf hash in hexadecimal."""

    log: str
    index: int
    leaf: str


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """The content of a receipt's Statement; ``signed_at`` is the signer's own word."""

    receipt: dict[str, Any]
    id: str
    signed_at: datetime
    nonce: str | None
    intent: IntentReference | None
    subjects: list[dict[str, Any]]


def receipt_statement(
    receipt: dict[str, Any], signed_at: datetime, *, nonce: str | None = None, intent: IntentReference | None = None
) -> bytes:
    """Return the Statement of a receipt in its RFC 8785 form. Errors: FormatError if the receipt is not plain JSON data."""
    predicate: dict[str, Any] = {
        "receipt": receipt,
        "receipt_id": receipt_id(receipt),
        "signed_at": format_time(signed_at),
    }
    if nonce is not None:
        predicate["nonce"] = check_nonce(nonce, "nonce")
    if intent is not None:
        predicate["intent"] = {"index": intent.index, "leaf": intent.leaf, "log": intent.log}
    return canonical(
        {
            "_type": STATEMENT_TYPE,
            "predicate": predicate,
            "predicateType": RECEIPT_TYPE,
            "subject": subjects(receipt),
        }
    )


def parse_statement(payload: bytes, predicate_type: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return subjects and predicate of a Statement of that type. Errors: FormatError."""
    document = loads(payload)
    if not isinstance(document, dict) or document.get("_type") != STATEMENT_TYPE:
        raise FormatError("not an in-toto Statement", expected=STATEMENT_TYPE)
    if document.get("predicateType") != predicate_type:
        got = str(document.get("predicateType"))[:120]
        raise FormatError("a Statement of another type", where="predicateType", expected=predicate_type, got=got)
    about, predicate = document.get("subject"), document.get("predicate")
    if not isinstance(about, list) or not about or not isinstance(predicate, dict):
        raise FormatError("not an in-toto Statement", expected="a list of subjects and a predicate")
    return about, predicate


def parse_receipt_statement(payload: bytes) -> SignedReceipt:
    """Read the Statement of a receipt. Errors: FormatError if it is none, or its id or subjects are not the receipt's."""
    about, predicate = parse_statement(payload, RECEIPT_TYPE)
    known = {"receipt", "receipt_id", "signed_at", "nonce", "intent"}
    if not {"receipt", "receipt_id", "signed_at"} <= set(predicate) <= known:
        raise FormatError("not a receipt's predicate", where="predicate", expected=f"the fields {sorted(known)}")
    receipt = predicate["receipt"]
    if not isinstance(receipt, dict):
        raise FormatError("not a receipt", where="predicate.receipt", expected="an object")
    if predicate["receipt_id"] != receipt_id(receipt):
        raise FormatError(
            "the receipt has another id", where="predicate.receipt_id", expected=receipt_id(receipt),
            got=str(predicate["receipt_id"])[:64],
        )  # fmt: skip
    if about != subjects(receipt):
        raise FormatError("the subjects are not the receipt's", where="subject", expected=subjects(receipt))
    nonce = check_nonce(predicate["nonce"], "predicate.nonce") if "nonce" in predicate else None
    signed_at = parse_time(predicate["signed_at"], "predicate.signed_at")
    intent = _intent(predicate["intent"]) if "intent" in predicate else None
    return SignedReceipt(receipt, predicate["receipt_id"], signed_at, nonce, intent, about)


def _intent(value: object) -> IntentReference:
    if (
        not isinstance(value, dict)
        or set(value) != {"index", "leaf", "log"}
        or type(value["index"]) is not int
        or value["index"] < 0
        or not all(isinstance(value[name], str) for name in ("leaf", "log"))
    ):
        raise FormatError("not a reference to an intent", where="predicate.intent", expected="index, leaf and log")
    return IntentReference(value["log"], value["index"], value["leaf"])


def result_statement(
    receipt: Mapping[str, Any], verdict: str, levels: Mapping[str, str], policy_sha256: str, created: datetime
) -> bytes:
    """Return a verdict as a Simple Verification Result, RFC 8785 form, for ``dsse.sign_payload``.

    ``verdict`` is accepted, rejected or inconclusive; ``levels`` maps claims to the levels that they reached. A rejected
    receipt has no verified property, whatever its levels.
    """
    if verdict not in ("accepted", "rejected", "inconclusive"):
        raise ValueError(f"no such verdict: {verdict!r}")
    reached = {} if verdict == "rejected" else levels
    predicate = {
        "properties": [f"TRITIUM_{claim.upper()}_{level.upper()}" for claim, level in sorted(reached.items())],
        "receiptId": receipt_id(receipt),
        "timeCreated": format_time(created),
        "verdict": verdict,
        "verifier": {"id": VERIFIER_ID, "policy": {"digest": {"sha256": policy_sha256}}},
    }
    return canonical(
        {
            "_type": STATEMENT_TYPE,
            "predicate": predicate,
            "predicateType": RESULT_TYPE,
            "subject": subjects(receipt),
        }
    )
