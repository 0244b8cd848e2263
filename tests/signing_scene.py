"""A run as it should go: announced, signed, registered, proven. Forgeries change one thing of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tritium.gates import Check, Demands, LogEvidence, judge_signed, read_policy
from tritium.receipts import ledger
from tritium.receipts.dsse import Envelope, sign_payload
from tritium.receipts.keys import Trust, TrustedKey, format_time
from tritium.receipts.log_proof import encode_proof
from tritium.receipts.log_records import Intent, Result, result_of
from tritium.receipts.merkle import leaf_hash
from tritium.receipts.notes import Checkpoint
from tritium.receipts.sign import PrivateKey, private_key_from_seed
from tritium.receipts.statement import IntentReference, parse_receipt_statement, receipt_statement

ORIGIN = "log.example/runs"
RUNNER = private_key_from_seed(b"runner".ljust(32))
LOG = private_key_from_seed(b"log".ljust(32))
STRANGER = private_key_from_seed(b"stranger".ljust(32))
START = datetime(2026, 5, 1, 12, tzinfo=UTC)
NONCE = "Tz5cP0yTLuM"


def receipt(start: datetime = START, shift: int = 0) -> dict[str, Any]:
    """A receipt's parts that signatures and logs look at; ``shift`` changes the token times."""
    times = [1_000_000 * n + n * n * (shift + 1) % 977 for n in range(1, 9)]
    return {
        "schema_version": "1.0.0",
        "timestamp": format_time(start),
        "compute_path": "real",
        "backend": "cpu",
        "kernels": ["i2s_gemv_avx2"],
        "environment": {"BITNET_VERSION": "0.1.0", "OS": "linux-x86_64"},
        "model": {"sha256": hashlib.sha256(b"model").hexdigest()},
        "evidence": {
            "model": {
                "sha256": hashlib.sha256(b"model").hexdigest(),
                "tensors_sha256": hashlib.sha256(b"t").hexdigest(),
            },
            "build": {"commit": "1" * 40, "dirty": False},
            "run": {
                "started": format_time(start),
                "prompt_sha256": hashlib.sha256(b"prompt").hexdigest(),
                "output_sha256": hashlib.sha256(b"output").hexdigest(),
                "token_ns": times,
            },
        },
    }


def trusted(key: PrivateKey = RUNNER, role: str = "receipt", **changes: Any) -> TrustedKey:
    name = ORIGIN if role == "log" else "lab"
    return replace(TrustedKey(key.public, name, frozenset([role]), START - timedelta(days=365)), **changes)


@dataclass
class Scene:
    """A log in a folder, and one run in it. ``now`` is the judge's clock."""

    folder: Path
    trust: Trust = field(default_factory=lambda: Trust.of([trusted(), trusted(LOG, "log")]))
    now: datetime = START + timedelta(minutes=10)
    signer: PrivateKey = RUNNER

    def __post_init__(self) -> None:
        ledger.create_log(self.folder, ORIGIN, LOG)

    def announce(self, receipt: dict[str, Any], at: timedelta = timedelta(0), nonce: str = NONCE) -> IntentReference:
        run = receipt["evidence"]["run"]
        time = datetime.fromisoformat(run["started"]) + at
        entry = Intent(receipt["model"]["sha256"], run["prompt_sha256"], self.signer.public.id, nonce, time).to_entry()
        index = self.append(entry).size - 1
        return IntentReference(ORIGIN, index, leaf_hash(entry).hex())

    def append(self, entry: bytes) -> Checkpoint:
        return ledger.append(self.folder, [entry], LOG)

    def sign(self, receipt: dict[str, Any], intent: IntentReference | None, nonce: str | None = NONCE, *,
             minutes: float = 1) -> Envelope:  # fmt: skip
        signed_at = datetime.fromisoformat(receipt["evidence"]["run"]["started"]) + timedelta(minutes=minutes)
        return sign_payload(receipt_statement(receipt, signed_at, nonce=nonce, intent=intent), [self.signer])

    def register(self, envelope: Envelope, time: datetime | None = None, **changes: Any) -> int:
        signed = parse_receipt_statement(envelope.payload)
        record: Result = result_of(envelope, signed, time or signed.signed_at + timedelta(minutes=1))
        return self.append(replace(record, **changes).to_entry()).size - 1

    def run(self, shift: int = 0, start: datetime = START) -> tuple[Envelope, int, int]:
        """Announce, sign, register; the envelope and the two entries' indices."""
        made = receipt(start, shift)
        intent = self.announce(made)
        envelope = self.sign(made, intent)
        return envelope, intent.index, self.register(envelope)

    def proof(self, index: int) -> str:
        return encode_proof(ledger.prove_inclusion(self.folder, ledger.read_checkpoint(self.folder, self.trust), index))

    def whole(self) -> LogEvidence:
        checkpoint = ledger.read_checkpoint(self.folder, self.trust)
        return LogEvidence(checkpoint=checkpoint.text, entries=tuple(ledger.verify_log(self.folder, checkpoint)))

    def evidence(self, intent: int | None, result: int | None) -> LogEvidence:
        """Both proofs and the whole log."""
        return replace(
            self.whole(),
            intent=None if intent is None else self.proof(intent),
            result=None if result is None else self.proof(result),
        )

    def checks(self, data: Envelope | bytes, log: LogEvidence, demands: Demands | None = None) -> dict[str, Check]:
        """The checks of level E4, by id."""
        verdict = judge_signed(
            data if isinstance(data, bytes) else data.to_bytes(), self.trust, read_policy(),
            demands=demands or Demands(nonce=NONCE), log=log, now=self.now,
        )  # fmt: skip
        return {check.id: check for check in verdict.checks if check.level == "E4"}


def edited(envelope: Envelope, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The statement changed, in canonical form, under the old signature."""
    statement = json.loads(envelope.payload)
    change(statement)
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    return replace(envelope, payload=payload).to_bytes()


def failed(checks: dict[str, Check]) -> list[str]:
    return [check.id for check in checks.values() if check.status == "FAIL"]


def undecided(checks: dict[str, Check]) -> list[str]:
    return [check.id for check in checks.values() if check.status == "INCONCLUSIVE"]
