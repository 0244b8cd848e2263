"""E4, second half: announced before the run, registered after it, in a log that neither forgets nor forks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tritium.errors import FormatError, GateError
from tritium.gates._check import Check, check, not_applicable
from tritium.gates._policy import Policy
from tritium.receipts.dsse import Envelope
from tritium.receipts.keys import Trust, parse_time
from tritium.receipts.ledger import Inclusion, open_trusted
from tritium.receipts.log_proof import parse_proof
from tritium.receipts.log_records import CLOCK_SLACK, Intent, Result, audit, intent_mismatch, parse_entry, result_of
from tritium.receipts.merkle import EMPTY_ROOT, leaf_hash, node_hash
from tritium.receipts.notes import Checkpoint
from tritium.receipts.statement import SignedReceipt, field, timing_sha256

LEVEL = "E4"


@dataclass(frozen=True, slots=True)
class LogEvidence:
    """What the caller has of a log, all of it text or bytes that is verified here.

    ``result`` and ``intent`` are tlog-proofs; ``checkpoint`` and ``entries`` are a whole log; ``since`` is a checkpoint
    that the verifier kept from before.
    """

    result: str | None = None
    intent: str | None = None
    checkpoint: str | None = None
    entries: Sequence[bytes] | None = None
    since: str | None = None


@dataclass(frozen=True, slots=True)
class _Log:
    checkpoint: Checkpoint
    entries: Sequence[bytes]
    leaves: Sequence[bytes]


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the RFC 6962 root over leaf hashes."""
    stack: list[tuple[int, bytes]] = []
    for leaf in leaves:
        size, digest = 1, leaf
        while stack and stack[-1][0] == size:
            digest = node_hash(stack.pop()[1], digest)
            size *= 2
        stack.append((size, digest))
    if not stack:
        return EMPTY_ROOT
    digest = stack.pop()[1]
    while stack:
        digest = node_hash(stack.pop()[1], digest)
    return digest


def registration(
    envelope: Envelope, signed: SignedReceipt, evidence: LogEvidence, trust: Trust, now: datetime
) -> tuple[Check, Inclusion | None, Result | None]:
    """Check that the receipt is registered: the proof holds, is of *this* envelope, under a log's key that was in use."""
    name = "log_inclusion"
    if evidence.result is None:
        return check(name, LEVEL, None, None, "a proof", "Ask for the proof: tritium log prove --receipt"), None, None
    try:
        proof, key = parse_proof(evidence.result, trust, "proof of the result")
        record = parse_entry(proof.entry, "entry of the result")
    except (FormatError, GateError) as error:
        return check(name, LEVEL, False, hint=str(error)), None, None
    fault = None
    if not proof.holds():
        fault = f"entry {proof.index} is not in the tree of {proof.checkpoint.size} entries"
    elif not isinstance(record, Result) or record != result_of(envelope, signed, record.time):
        fault = f"entry {proof.index} registers another receipt"
    elif record.time > now + CLOCK_SLACK:
        fault = f"entry {proof.index} is of the future: {record.time}"
    elif trust.keys[key.id].revoked_at is not None or not trust.keys[key.id].covers(record.time):
        fault = f"the log's key {key.id} was not in use"
    if fault is not None or not isinstance(record, Result):
        return check(name, LEVEL, False, fault, "this receipt, registered", "The log does not hold it"), None, None
    return check(name, LEVEL, True, proof.index), proof, record


def announcement(
    signed: SignedReceipt,
    key_id: str,
    evidence: LogEvidence,
    trust: Trust,
    result: Inclusion | None,
    logged: Result | None,
    policy: Policy,
) -> Check:
    """Check that the run was announced first: same log, same model, prompt, key and nonce, earlier entry, earlier time."""
    name, bound = "intent", "announced in the log before the run"
    if signed.intent is None:
        return check(name, LEVEL, None, None, bound, "Without it nobody sees the runs that were thrown away")
    if evidence.intent is None:
        return check(name, LEVEL, None, None, "a proof", "Ask for the proof of the announcement")
    try:
        proof, _ = parse_proof(evidence.intent, trust, "proof of the intent")
        intent = parse_entry(proof.entry, "entry of the intent")
    except (FormatError, GateError) as error:
        return check(name, LEVEL, False, hint=str(error))
    fault: str | None = None
    if not proof.holds():
        fault = f"entry {proof.index} is not in the tree of {proof.checkpoint.size} entries"
    elif (proof.checkpoint.origin, proof.index, leaf_hash(proof.entry).hex()) != (
        signed.intent.log, signed.intent.index, signed.intent.leaf,
    ):  # fmt: skip
        fault = f"entry {proof.index} is not the announcement that was signed"
    elif not isinstance(intent, Intent):
        fault = f"entry {proof.index} announces nothing"
    elif (mismatch := intent_mismatch(intent, signed.receipt, key_id, signed.nonce)) is not None:
        fault = mismatch
    elif result is not None and (proof.checkpoint.origin, True) != (
        result.checkpoint.origin,
        proof.index < result.index,
    ):
        fault = f"entry {proof.index} does not come before the result, entry {result.index}"
    else:
        fault = _time_fault(intent, signed, logged, timedelta(seconds=policy.get("binding", "intent_slack_s")))
    return check(name, LEVEL, fault is None, fault or proof.index, bound, "Not the announcement of this run")


def _time_fault(intent: Intent, signed: SignedReceipt, logged: Result | None, slack: timedelta) -> str | None:
    """Why the run does not lie between its two entries: the start is the runner's word, but its length has to fit in."""
    try:
        started = parse_time(field(signed.receipt, ("evidence", "run", "started")), "started")
    except FormatError:
        return None  # a receipt of old; whether it has to have a time is for the schema to say
    if intent.time > started + slack:
        return f"announced {intent.time}, run started {started}"
    wall_ns = field(signed.receipt, ("evidence", "run", "wall_ns"))
    if logged is not None and type(wall_ns) is int:
        wall, room = timedelta(microseconds=wall_ns // 1000), logged.time - intent.time
        if wall > room + slack:
            return f"registered {room} after it was announced, for a run of {wall}"
    return None


def whole_log(
    signed: SignedReceipt, key_id: str, evidence: LogEvidence, trust: Trust, result: Inclusion | None, now: datetime,
    policy: Policy,
) -> Iterator[Check]:  # fmt: skip
    """Check what only the whole log shows: that it is one, continues what was seen, hides no runs, holds no copies."""
    if evidence.checkpoint is None or evidence.entries is None:
        for name in ("log_root", "log_continuity", "orphans", "timing_reuse"):
            yield not_applicable(name, LEVEL, "needs the log")
        return
    try:
        checkpoint, _ = open_trusted(evidence.checkpoint, trust, "checkpoint")
        records, faults = audit(evidence.entries, "log", now)
    except (FormatError, GateError) as error:
        yield check("log_root", LEVEL, False, hint=str(error))
        return
    log = _Log(checkpoint, evidence.entries, [leaf_hash(entry) for entry in evidence.entries])
    is_whole = len(log.leaves) == checkpoint.size and root_of(log.leaves) == checkpoint.root
    got = f"{len(log.leaves)} entries, root {root_of(log.leaves).hex()[:16]}"
    bound = f"{checkpoint.size} entries, root {checkpoint.root.hex()[:16]}"
    yield check("log_root", LEVEL, is_whole, got, bound, "An entry was removed, added or changed")
    if not is_whole:
        return
    yield _continuity(log, result, evidence.since, trust)
    own = next((i for i, r in enumerate(records) if isinstance(r, Result) and r.receipt_id == signed.id), None)
    wrong = {later for _, later in faults.repeated_intents} | {
        *faults.dangling_results, *faults.backward_times, *faults.future_times,
    }  # fmt: skip
    mine = sorted(wrong & {own, signed.intent.index if signed.intent else None})
    hint = "The entry is out of order, or answers what was answered"
    yield check("log_entries", LEVEL, not mine, f"entry {mine[0]}" if mine else None, "entries in order", hint)
    yield _orphan_check(records, faults.orphans, key_id, signed, policy)
    yield _timing_check(records, signed, own)


def _continuity(log: _Log, result: Inclusion | None, since: str | None, trust: Trust) -> Check:
    """A log has one history: the proof's checkpoint, and the one kept from before, are both roots of its beginnings."""
    olds = [] if result is None else [result.checkpoint]
    try:
        olds += [] if since is None else [open_trusted(since, trust, "older checkpoint")[0]]
    except (FormatError, GateError) as error:
        return check("log_continuity", LEVEL, False, hint=str(error))
    if not olds:
        return not_applicable("log_continuity", LEVEL, "no older checkpoint was given")
    for old in olds:
        got = f"{old.origin}, {old.size} entries, root {old.root.hex()[:16]}"
        if old.origin != log.checkpoint.origin or old.size > log.checkpoint.size:
            bound = f"at most {log.checkpoint.size} entries of {log.checkpoint.origin}"
            return check("log_continuity", LEVEL, False, got, bound, "A checkpoint ahead of the log, or of another one")
        if root_of(log.leaves[: old.size]) != old.root:
            bound = root_of(log.leaves[: old.size]).hex()[:16]
            return check("log_continuity", LEVEL, False, got, bound, "The log was forked: it shows several histories")
    return check("log_continuity", LEVEL, True, log.checkpoint.size)


def _orphan_check(
    records: Sequence[Intent | Result], orphans: Sequence[int], key_id: str, signed: SignedReceipt, policy: Policy
) -> Check:
    """Runs that this key announced, around this one, and never registered: crashes, or results that did not please."""
    window = timedelta(seconds=policy.get("binding", "orphan_window_s"))

    def counts(record: Intent | Result) -> bool:
        return isinstance(record, Intent) and record.key_id == key_id and abs(record.time - signed.signed_at) <= window

    n_intents = sum(map(counts, records))
    n_orphans = sum(counts(records[index]) for index in orphans)
    limit = max(policy.get("binding", "orphans"), policy.get("binding", "orphan_share") * n_intents)
    hint = f"of {n_intents} announced runs; a result may have been picked"
    return check("orphans", LEVEL, n_orphans <= limit, n_orphans, limit, hint)


def _timing_check(records: Sequence[Intent | Result], signed: SignedReceipt, own: int | None) -> Check:
    """The token times are nobody's before; who copies them later is not held against this receipt."""
    timing = timing_sha256(signed.receipt)
    if timing is None:
        return not_applicable("timing_reuse", LEVEL, "too few token times to tell runs apart")
    others = [
        index
        for index, record in enumerate(records[:own])
        if isinstance(record, Result) and record.timing_sha256 == timing and record.receipt_id != signed.id
    ]
    hint = "The token times of another receipt: a copy under a new id"
    return check("timing_reuse", LEVEL, not others, f"entry {others[0]}" if others else None, "times of its own", hint)
