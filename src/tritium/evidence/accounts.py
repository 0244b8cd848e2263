"""The executor's counters as a receipt tells them: work by step and by family, time by stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tritium.evidence.recorder import RecordedRun
from tritium.ir import Plan
from tritium.ops import SCREENED_HEAD, STAGES
from tritium.receipts import registry
from tritium.types import StepCount, Trace

FAMILIES = {
    "linear": "body",
    "attention": "attention",
    "attention_int8": "attention",
    "logits_projection": "head",
    **dict.fromkeys(SCREENED_HEAD, "head"),
}
"""Op → matrix family; every other op is "other"."""


def stages(trace: Trace, run: RecordedRun, times: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Time by phase: embed, forward and logits as the executor counted them; sample is from a step's end to its last token."""
    ns = dict.fromkeys(("embed", "forward", "logits", "sample"), 0)
    for c in trace.counts:
        ns[STAGES.get(op_of(c), "forward")] += c.ns
    ns["sample"] = run.sample_ns(times)
    last = max(each[-1] for each in times)
    return [{"name": name, "ns": t, "percent": round(100 * t / last, 3)} for name, t in ns.items()]


def decoding(times: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Tokens that were chosen once every sequence had its first one, and the nanoseconds that they took.

    Of one sequence: n − 1 tokens in t_n − t_1.
    """
    first = max(each[0] for each in times)
    return sum(t > first for each in times for t in each), max(each[-1] for each in times) - first


def op_of(count: StepCount) -> str:
    entry = registry.find(count.kernel)
    return entry.op if entry is not None else "unknown"


def ledger(trace: Trace, plan: Plan) -> dict[str, Any]:
    families = {name: dict.fromkeys(("calls", "macs", "macs_skipped", "bytes", "ns"), 0)
                for name in ("body", "attention", "head", "other")}  # fmt: skip
    quantized = 0
    for c in trace.counts:
        entry = registry.find(c.kernel)
        family = FAMILIES.get(op_of(c), "other")
        for name, total in families[family].items():
            families[family][name] = total + getattr(c, name)
        if family == "body" and entry is not None and entry.kind in ("quantized", "gpu"):
            quantized += c.macs + c.macs_skipped
    body = families["body"]["macs"] + families["body"]["macs_skipped"]
    skipped = dict.fromkeys(registry.SKIP_REASONS.values(), 0)
    for c in trace.counts:
        reason = registry.skip_reason(c.kernel)
        if reason is not None:
            skipped[reason] += c.macs_skipped
    work = {op: [0, 0] for op in ("logits_projection", "rescore")}
    for c in trace.counts:
        if op_of(c) in work:
            work[op_of(c)][0] += c.macs
            work[op_of(c)][1] += c.macs_skipped
    width = _width(plan)
    full, rescored, excluded = (n // width for n in (work["logits_projection"][0], *work["rescore"]))
    return {
        "n_steps": trace.n_steps,
        "n_tokens": trace.n_tokens,
        "wall_ns": trace.wall_ns,
        "steps": [
            {"step": c.step, "kernel": c.kernel, "calls": c.calls, "macs": c.macs, "macs_skipped": c.macs_skipped,
             "bytes": c.bytes, "ns": c.ns}
            for c in trace.counts
        ],
        "families": [{"family": name, **work} for name, work in families.items()],
        "macs_skipped_by_reason": skipped,
        "head_rows": {"screened": rescored + excluded, "rescored": rescored, "full": full},
        "quantized_fraction": round(quantized / body, 6) if body else 0,
    }  # fmt: skip


def _width(plan: Plan) -> int:
    return next(int(step.attrs["k"]) for step in plan.steps if step.op == "logits_projection")
