"""Judge receipts: pure functions of the evidence, one file a gate, the standard library alone.

A gate is a file of this folder without an underscore in front: its ``gate(facts, policy)`` yields checks. It may trust that the
receipt follows the schema. The gates of ``CLASSIC`` judge what does not, too: they see plain data.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from tritium.errors import FormatError
from tritium.gates import _facts, _logged, _policy, _signature, _signed, _together, _verdict
from tritium.gates._check import LEVELS, Check, check
from tritium.receipts import jcs, schema, strict_json
from tritium.receipts.keys import Trust

Check = Check
Demands = _signature.Demands
Facts = _facts.Facts
LogEvidence = _logged.LogEvidence
Policy = _policy.Policy
Verdict = _verdict.Verdict
read_policy = _policy.read_policy
compare = _together.compare
printable = _verdict.printable
worst = _verdict.worst

CLASSIC = "classic"
REEXECUTED = ("replay_ids", "replay_tolerant", "openings")
"""Checks whose value says in words how much was computed again."""
NO_DEMANDS = Demands()
NO_LOG = LogEvidence()

__all__ = [
    "LEVELS",
    "Check",
    "Demands",
    "Facts",
    "LogEvidence",
    "Policy",
    "Verdict",
    "check",
    "compare",
    "gates",
    "judge",
    "judge_signed",
    "parse_requirements",
    "printable",
    "read_policy",
    "worst",
]


@cache
def gates() -> tuple[ModuleType, ...]:
    """The gates, by file name."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py") if path.stem != CLASSIC)
    return tuple(importlib.import_module(f"{__name__}.{name}") for name in names)


def parse_requirements(text: str, policy: Policy) -> dict[str, str]:
    """``claim=level,…`` as a mapping. Errors: FormatError for an unknown claim or level."""
    out = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        claim, _, level = part.partition("=")
        if claim not in policy.claims or level not in LEVELS:
            raise FormatError("requirement", where=part, expected=f"one of {', '.join(policy.claims)} = E0 to E6")
        out[claim] = level
    return out


def judge(
    data: bytes,
    policy: Policy | None = None,
    *,
    required: Mapping[str, str] | None = None,
    gpu_required: bool = False,
    now: datetime | None = None,
    binding: Iterable[Check] = (),
) -> Verdict:
    """Judge the bytes of a receipt. ``now`` is the judge's clock; ``binding`` holds checks of what lies outside the receipt: its
    envelope, its log, its replay."""
    policy = policy or read_policy()
    moment = now or datetime.now(UTC)
    checks = list(binding)
    receipt_sha256, notes = hashlib.sha256(data).hexdigest(), {}
    value: Any = None
    try:
        value = strict_json.loads(data)
        checks.append(check("strict_json", "E0", True))
    except FormatError as error:
        checks.append(check("strict_json", "E0", False, hint=str(error)))
    else:
        receipt_sha256 = hashlib.sha256(jcs.canonical(value)).hexdigest()
        checks += _judge_value(value, policy, gpu_required, moment)
        notes = _notes(value, checks) if not any(c.status == "FAIL" for c in checks) else {}
    return _verdict.conclude(checks, policy, required or {}, receipt_sha256, notes)


def judge_signed(
    data: bytes,
    trust: Trust,
    policy: Policy | None = None,
    *,
    demands: Demands = NO_DEMANDS,
    log: LogEvidence = NO_LOG,
    required: Mapping[str, str] | None = None,
    gpu_required: bool = False,
    now: datetime | None = None,
    replayed: Iterable[Check] = (),
) -> Verdict:
    """Judge the bytes of a signed receipt: the envelope by the keys of ``trust``, then the receipt inside.

    ``demands`` is what the verifier asked for; ``log`` is what he has of a log; ``replayed`` what its replay showed. Without a
    good signature the receipt is not looked at.
    """
    policy = policy or read_policy()
    moment = now or datetime.now(UTC)
    checks, signed = _signed.binding_checks(data, trust, policy, demands=demands, log=log, now=moment)
    if signed is None:
        return _verdict.conclude(checks, policy, required or {}, hashlib.sha256(data).hexdigest(), {})
    receipt = jcs.canonical(signed.receipt)
    binding = [*checks, *replayed]
    return judge(receipt, policy, required=required, gpu_required=gpu_required, now=moment, binding=binding)


def _judge_value(value: Any, policy: Policy, gpu_required: bool, now: datetime) -> Iterator[Check]:
    classic = importlib.import_module(f"{__name__}.{CLASSIC}")
    results = [*_schema_checks(value)]
    if isinstance(value, dict):
        results += classic.gate(value, gpu_required)
    yield from results
    if all(c.status != "FAIL" for c in results if c.id == "schema") and isinstance(value, dict):
        facts = Facts(value, now)
        for module in gates():
            try:
                yield from list(module.gate(facts, policy))
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                name = module.__name__.rpartition(".")[2]
                yield check(
                    "judgeable", "E0", False, name, hint=f"Its parts contradict: {type(error).__name__} {error}"
                )


def _schema_checks(value: Any) -> Iterator[Check]:
    wrong = list(schema.violations(value))
    if not wrong and "evidence" in value:
        wrong += [f"$.{name}: expected beside evidence" for name in schema.WITH_EVIDENCE if name not in value]
    hint = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
    yield check("schema", "E0", not wrong, hint=hint)


def _notes(value: Mapping[str, Any], checks: Iterable[Check]) -> dict[str, str]:
    """What a claim says, in figures."""
    facts = Facts(value, datetime.now(UTC))
    speed = facts.tokens_per_second
    notes = {"speed": "no decode rate" if speed is None else f"{speed:g} tok/s"}
    if facts.evidence is None:
        return notes
    run, ledger = facts.run, facts.ledger
    body = next(f for f in ledger["families"] if f["family"] == "body")
    together = f", {len(facts.sequences)} sequences" if len(facts.sequences) > 1 else ""
    ends = " or ".join(sorted({s["finish_reason"] for s in facts.sequences}))
    notes["output"] = f"{facts.n_ids}/{sum(s['max_tokens'] for s in facts.sequences)} ids{together}, {ends}"
    notes["speed"] += f" of {len(facts.sequences)} sequences together" if together else ""
    replayed = [str(c.value) for c in checks if c.id in REEXECUTED and c.status == "PASS"]
    notes["output"] = replayed[0] if replayed else notes["output"]
    notes["model"] = f"{facts.config['architecture']} {facts.model['sha256'][:16]}"
    notes["kernels"] = (
        f"body MACs {body['macs'] + body['macs_skipped']}; quantized fraction {ledger['quantized_fraction']:.3f}"
    )
    probe = facts.evidence["bandwidth"]
    decode = {i: p["ns"] for i, p in enumerate(run["passes"]) if p["n_tokens"] == p["n_outputs"]}
    if probe and decode:
        speed_now = sum(map(facts.pass_bytes, decode)) / sum(decode.values())
        notes["speed"] += (
            f", {speed_now:.3g} GB/s = {100 * speed_now / probe['median_gb_per_s']:.0f} % of the read bandwidth"
        )
    notes["determinism"] = f"{len(facts.evidence['repeats'])} runs"
    return notes
