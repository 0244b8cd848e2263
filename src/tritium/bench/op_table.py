"""The counters of a run by op and kernel, and the bytes and products that bound them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tritium.errors import ShapeError
from tritium.ir import Plan
from tritium.ops import SCREENED_HEAD
from tritium.types import Trace

if TYPE_CHECKING:
    from tritium.bench.benchmark import Limits

Part = Literal["body", "head", "kv", "other"]
_PARTS: dict[str, Part] = {
    "linear": "body",
    "logits_projection": "head",
    **dict.fromkeys(SCREENED_HEAD, "head"),
    "attention": "kv",
    "attention_int8": "kv",
}
_PLANE_OPS = ("screen", "refine")


@dataclass(frozen=True, slots=True)
class OpRow:
    """What one kernel did for one op, all layers together, a token of the run (of a prompt, too).

    ``limit_percent``: the least time that its bytes and its products (int8 of a linear or a head's plane, float32 of attention)
    take here, over the time that it took; None if it is bound by neither.
    """

    op: str
    kernel: str
    part: Part
    calls_per_token: float
    us_per_token: float
    bytes_per_token: float
    macs_per_token: float
    macs_skipped_per_token: float
    gb_per_s: float
    gmac_per_s: float
    limit_percent: float | None


def ops_of(plan: Plan) -> dict[tuple[str, str], str]:
    """The op of each step's name and kernel."""
    return {
        (f"{s.block}.{s.label}" if s.block >= 0 else s.label, c.kernel): s.op for s in plan.steps for c in s.choices
    }


def op_table(trace: Trace, plan: Plan, limits: Limits | None) -> list[OpRow]:
    """The counters by op and kernel, the longest first. Errors: ShapeError for an empty trace."""
    if not trace.n_tokens:
        raise ShapeError("nothing was counted", expected="a step")
    ops = ops_of(plan)
    sums: dict[tuple[str, str, str], list[int]] = {}
    for count in trace.counts:
        if not count.calls:
            continue
        key = _label(count.step), count.kernel, ops[count.step, count.kernel]
        total = sums.setdefault(key, [0] * 5)
        for i, value in enumerate((count.calls, count.ns, count.bytes, count.macs, count.macs_skipped)):
            total[i] += value
    rows = []
    for (label, kernel, op), (calls, ns, n_bytes, macs, skipped) in sums.items():
        part = _PARTS.get(op, "other")
        products = macs if part == "body" or op in _PLANE_OPS else 0, macs if part == "kv" else 0
        least = None if limits is None or part == "other" else limits.ns(n_bytes, *products)
        n, spent = trace.n_tokens, max(ns, 1)
        rows.append(
            OpRow(
                label, kernel, part, calls / n, ns / n / 1e3, n_bytes / n, macs / n, skipped / n, n_bytes / spent, macs / spent,
                None if least is None else 100 * least / spent,
            )
        )  # fmt: skip
    return sorted(rows, key=lambda row: -row.us_per_token)


def products_of(trace: Trace, plan: Plan) -> tuple[int, int]:
    """The int8 products of the linears, counted as done or as spared by zeros, and the float32 products of attention."""
    ops = ops_of(plan)
    sums: dict[Part, int] = {"body": 0, "kv": 0}
    for count in trace.counts:
        part = _PARTS.get(ops[count.step, count.kernel], "other") if count.calls else "other"
        if part in sums:
            sums[part] += count.macs + count.macs_skipped
    return sums["body"], sums["kv"]


def bytes_by_part(rows: Sequence[OpRow]) -> dict[Part, float]:
    """The byte budget of a token: ternary matrices, output head, key-value cache, everything else."""
    budget: dict[Part, float] = {"body": 0.0, "head": 0.0, "kv": 0.0, "other": 0.0}
    for row in rows:
        budget[row.part] += row.bytes_per_token
    return budget


def _label(step: str) -> str:
    """The step's name without its layer."""
    return re.sub(r"^\d+\.", "", step)
