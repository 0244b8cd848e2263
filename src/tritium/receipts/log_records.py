"""What Tritium writes into a log: an intent before a run, a result after it; and what a whole log gives away.

An intent that no result refers to is an orphan: a run that failed, or one whose receipt did not please.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tritium.errors import FormatError
from tritium.receipts.dsse import Envelope
from tritium.receipts.jcs import canonical
from tritium.receipts.keys import format_time, parse_time
from tritium.receipts.merkle import leaf_hash
from tritium.receipts.statement import SignedReceipt, check_nonce, field, model_sha256, timing_sha256
from tritium.receipts.strict_json import loads

CLOCK_SLACK = timedelta(minutes=1)
"""How far two honest clocks may be apart."""
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Intent:
    """A run announced: which model, prompt and key, for whose nonce. Hashes are hexadecimal; ``time`` is the log's."""

    model_sha256: str
    prompt_sha256: str
    key_id: str
    nonce: str
    time: datetime

    def to_entry(self) -> bytes:
        """Return the entry: the RFC 8785 form."""
        return canonical(
            {
                "key_id": self.key_id,
                "kind": "intent",
                "model_sha256": self.model_sha256,
                "nonce": self.nonce,
                "prompt_sha256": self.prompt_sha256,
                "time": format_time(self.time),
                "version": 1,
            }
        )


@dataclass(frozen=True, slots=True)
class Result:
    """A receipt registered: its id, its envelope's hash, and the leaf hash of the intent that it answers, if any.

    ``timing_sha256`` is ``statement.timing_sha256`` of the receipt, so that one run cannot be registered twice.
    """

    receipt_id: str
    envelope_sha256: str
    key_id: str
    time: datetime
    intent_leaf: str | None = None
    timing_sha256: str | None = None

    def to_entry(self) -> bytes:
        """Return the entry: the RFC 8785 form, without fields that are None."""
        record: dict[str, Any] = {
            "envelope_sha256": self.envelope_sha256,
            "key_id": self.key_id,
            "kind": "result",
            "receipt_id": self.receipt_id,
            "time": format_time(self.time),
            "version": 1,
        }
        for name in ("intent_leaf", "timing_sha256"):
            if getattr(self, name) is not None:
                record[name] = getattr(self, name)
        return canonical(record)


def result_of(envelope: Envelope, signed: SignedReceipt, time: datetime) -> Result:
    """Return the entry that registers a signed receipt."""
    return Result(
        receipt_id=signed.id,
        envelope_sha256=envelope.sha256,
        key_id=envelope.signatures[0].key_id,
        time=time,
        intent_leaf=signed.intent.leaf if signed.intent else None,
        timing_sha256=timing_sha256(signed.receipt),
    )


def intent_mismatch(intent: Intent, receipt: Mapping[str, Any], key_id: str, nonce: str | None) -> str | None:
    """Return what a receipt, its key and its nonce have otherwise than the intent announced, or None."""
    facts = (
        ("model", intent.model_sha256, model_sha256(receipt)),
        ("prompt", intent.prompt_sha256, field(receipt, ("evidence", "run", "prompt_sha256"))),
        ("key", intent.key_id, key_id),
        ("nonce", intent.nonce, nonce),
    )
    return next((f"{name}: announced {old}, got {new}" for name, old, new in facts if old != new), None)


def ids_sha256(ids: Sequence[int]) -> str:
    """Return SHA-256 of token ids as little-endian int32, in hexadecimal. Errors: FormatError outside [0, 2^31)."""
    if not all(type(each) is int and 0 <= each < 1 << 31 for each in ids):
        raise FormatError("not token ids", expected="integers in [0, 2^31)")
    return hashlib.sha256(b"".join(each.to_bytes(4, "little") for each in ids)).hexdigest()


def parse_entry(entry: bytes, where: str) -> Intent | Result:
    """Read an entry. Errors: FormatError if it is neither an intent nor a result in its one form."""
    document = loads(entry)
    kind = document.get("kind") if isinstance(document, dict) else None
    if not isinstance(document, dict) or kind not in ("intent", "result") or document.get("version") != 1:
        raise FormatError("not an entry of this log", where=where, expected="an intent or a result of version 1")
    hashes = [name for name in document if name not in ("kind", "version", "time", "nonce")]
    for name in hashes:
        if not isinstance(document[name], str) or not _HEX.fullmatch(document[name]):
            raise FormatError("not a hash", where=f"{where}: {name}", expected="64 lower-case hex digits")
    fields = {name: document[name] for name in hashes}
    time = parse_time(document.get("time"), f"{where}: time")
    try:
        if kind == "intent":
            record: Intent | Result = Intent(nonce=check_nonce(document.get("nonce"), where), time=time, **fields)
        else:
            record = Result(time=time, **fields)
    except TypeError:
        raise FormatError("not an entry of this log", where=where, got=f"the fields {sorted(document)}") from None
    if record.to_entry() != entry:
        raise FormatError("an entry in another form", where=where, expected="RFC 8785, times in UTC")
    return record


@dataclass(frozen=True, slots=True)
class Faults:
    """What a whole log gives away. Indices of entries; pairs are (earlier, later)."""

    orphans: tuple[int, ...]
    reused_timings: tuple[tuple[int, int], ...]
    repeated_receipts: tuple[tuple[int, int], ...]
    repeated_intents: tuple[tuple[int, int], ...]
    dangling_results: tuple[int, ...]
    backward_times: tuple[int, ...]
    future_times: tuple[int, ...]

    @property
    def is_sound(self) -> bool:
        """True without faults. Orphans, and a receipt registered twice, are facts to weigh and no faults."""
        faults = (self.reused_timings, self.repeated_intents, self.dangling_results, self.backward_times)
        return not any(faults) and not self.future_times


def audit(entries: Iterable[bytes], where: str, now: datetime) -> tuple[list[Intent | Result], Faults]:
    """Read all entries of a verified log and look for what no single entry shows.

    A result whose intent does not come *before* it dangles; a second receipt with the timing of a first is a copy; a
    second result for one intent is a repeat; by over a minute, times neither go back nor
    lie beyond ``now``.
    Errors: FormatError for an entry that is no record.
    """
    records: list[Intent | Result] = []
    announced: dict[str, int] = {}
    open_intents: dict[str, int] = {}
    answered: dict[str, int] = {}
    receipts: dict[str, int] = {}
    timings: dict[str, int] = {}
    reused, again, intents, dangling, backward, future = [], [], [], [], [], []
    latest = datetime.min.replace(tzinfo=UTC) + CLOCK_SLACK
    for index, entry in enumerate(entries):
        record = parse_entry(entry, f"{where}: entry {index}")
        if record.time < latest - CLOCK_SLACK:
            backward.append(index)
        latest = max(latest, record.time)
        if record.time > now + CLOCK_SLACK:
            future.append(index)
        records.append(record)
        leaf = leaf_hash(entry).hex()
        if isinstance(record, Intent):
            if leaf in announced:
                intents.append((announced[leaf], index))
            else:
                announced[leaf] = open_intents[leaf] = index
            continue
        if receipts.setdefault(record.receipt_id, index) != index:
            again.append((receipts[record.receipt_id], index))
            continue
        if record.intent_leaf is not None:
            if record.intent_leaf in answered:
                intents.append((answered[record.intent_leaf], index))
            elif open_intents.pop(record.intent_leaf, None) is None:
                dangling.append(index)
            answered.setdefault(record.intent_leaf, index)
        if record.timing_sha256 is not None and timings.setdefault(record.timing_sha256, index) != index:
            reused.append((timings[record.timing_sha256], index))
    faults = Faults(
        orphans=tuple(open_intents.values()),
        reused_timings=tuple(reused),
        repeated_receipts=tuple(again),
        repeated_intents=tuple(intents),
        dangling_results=tuple(dangling),
        backward_times=tuple(backward),
        future_times=tuple(future),
    )
    return records, faults
