"""E4, first half: who signed what, with a key that he may use, for whose question."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from tritium.errors import FormatError
from tritium.gates._check import Check, check, not_applicable
from tritium.receipts.dsse import PAYLOAD_TYPE, Envelope, parse_envelope, signature_fault
from tritium.receipts.keys import PublicKey, Trust
from tritium.receipts.log_records import CLOCK_SLACK
from tritium.receipts.statement import RECEIPT_TYPE, SignedReceipt, field, parse_receipt_statement, parse_statement

LEVEL = "E4"


@dataclass(frozen=True, slots=True)
class Demands:
    """What the verifier asked for: his nonce, a source commit, a greatest age. None asks for nothing."""

    nonce: str | None = None
    commit: str | None = None
    max_age: timedelta | None = None


def open_envelope(data: bytes, trust: Trust) -> tuple[list[Check], Envelope | None, SignedReceipt | None]:
    """Check form, signatures, types and content, in this order; stop at what fails, for what follows means nothing then."""
    checks: list[Check] = []
    try:
        envelope = parse_envelope(data, "envelope")
        checks.append(check("envelope", LEVEL, True))
    except FormatError as error:
        return [check("envelope", LEVEL, False, hint=str(error))], None, None

    def find(key_id: str) -> PublicKey | None:
        trusted = trust.keys.get(key_id)
        return trusted.key if trusted is not None and "receipt" in trusted.roles else None

    fault = signature_fault(envelope, find)
    hint = "Edited after signing, or signed by a key that the trust file does not list for receipts"
    checks.append(check("signature", LEVEL, fault is None, fault, "a valid signature of a trusted key", hint))
    if fault is not None:
        return checks, envelope, None
    is_known_type = envelope.payload_type == PAYLOAD_TYPE
    hint = "" if is_known_type else "A signature for another purpose says nothing about a receipt"
    if is_known_type:
        try:
            parse_statement(envelope.payload, RECEIPT_TYPE)
        except FormatError as error:
            is_known_type, hint = False, str(error)
    checks.append(check("payload_type", LEVEL, is_known_type, envelope.payload_type[:120], PAYLOAD_TYPE, hint))
    if not is_known_type:
        return checks, envelope, None
    try:
        signed = parse_receipt_statement(envelope.payload)
        checks.append(check("statement", LEVEL, True))
    except FormatError as error:
        return [*checks, check("statement", LEVEL, False, hint=str(error))], envelope, None
    return checks, envelope, signed


def demand_checks(signed: SignedReceipt, demands: Demands, is_announced: bool, now: datetime) -> Iterator[Check]:
    """Compare with what the verifier asked: nonce, commit, age."""
    if demands.nonce is not None:
        traced = field(signed.receipt, ("evidence", "trace", "nonce"))
        said = signed.nonce if traced is None or signed.nonce != demands.nonce else traced
        yield check(
            "freshness", LEVEL, said == demands.nonce, said, demands.nonce,
            "An answer to another question: ask for a run with this nonce",
        )  # fmt: skip
    else:
        yield check(
            "freshness", LEVEL, True if is_announced else None, signed.nonce, None,
            "Neither a nonce of the verifier nor an announcement in a log says that the run is not older",
        )  # fmt: skip
    yield _commit_check(signed, demands.commit)
    age = now - signed.signed_at
    if age < -CLOCK_SLACK:
        yield check("age", LEVEL, False, f"{signed.signed_at}", f"≤ {now}", "Signed in the future: one clock is wrong")
    elif demands.max_age is None:
        yield not_applicable("age", LEVEL, "no greatest age was asked for")
    else:
        hint = "Yesterday's receipt: run again"
        yield check("age", LEVEL, age <= demands.max_age, age.total_seconds(), demands.max_age.total_seconds(), hint)


def _commit_check(signed: SignedReceipt, wanted: str | None) -> Check:
    if wanted is None:
        return not_applicable("source_commit", LEVEL, "no commit was asked for")
    commit = field(signed.receipt, ("evidence", "build", "commit"))
    is_clean = field(signed.receipt, ("evidence", "build", "dirty")) is False
    passes = None if commit is None else commit == wanted and (is_clean or None)
    if commit == wanted:
        hint = "The tree had changes of its own"
    else:
        hint = "The receipt does not say" if commit is None else "A receipt of another source"
    return check("source_commit", LEVEL, passes, commit, wanted, hint)


def key_check(envelope: Envelope, signed: SignedReceipt, trust: Trust, logged: datetime | None, now: datetime) -> Check:
    """Check that every key was in use when it signed.

    The signer's own time can be set back. Once a key has ended, only the time of a log shows that the signature is older.
    """
    passes: bool | None = True
    value, bound, hint = None, None, ""
    for signature in envelope.signatures:
        trusted = trust.keys[signature.key_id]
        ends = [end for end in (trusted.not_after, trusted.revoked_at) if end is not None]
        bound = f"from {trusted.not_before or 'ever'} to {min(ends) if ends else 'ever'}"
        if not trusted.covers(signed.signed_at):
            value, hint = f"signed {signed.signed_at}", "The key was not in use then: rotated, expired or not yet valid"
            return check("key_validity", LEVEL, False, value, bound, hint)
        if logged is not None and trusted.covers(logged):
            continue
        value = f"logged {logged}" if logged is not None else f"signed {signed.signed_at}, by the signer's word"
        if trusted.revoked_at is not None:
            hint = "The key is revoked, and no log shows that the signature is older than that"
            return check("key_validity", LEVEL, False, value, bound, hint)
        if logged is not None or not trusted.covers(now):
            passes, hint = None, "The key has ended; only a log can show that the signature is older"
    return check("key_validity", LEVEL, passes, value, bound, hint)
