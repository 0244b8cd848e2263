"""A plan as text that fits a screen and as JSON, with the multiply-accumulates and bytes of every step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tritium.ir import Plan, Step
from tritium.layouts import head_plane_bytes
from tritium.ops import OPS, SCREENED_HEAD, cache_of, vector_bytes

GATHERED = ("embedding", "rope_kv", "rope_kv_int8")
"""Ops that read one row of a resident for each token, not all of it."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """Work of one step call: multiply-accumulates, bytes of weights, bytes of activations and cache."""

    macs: int
    weight_bytes: int
    activation_bytes: int

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.activation_bytes


def without_candidates(plan: Plan) -> frozenset[int]:
    """Steps that a request for candidates spares: the full head of a plan that screens it."""
    ops = [step.op for step in plan.steps]
    if "screen" not in ops:
        return frozenset()
    return frozenset(i for i, op in enumerate(ops) if op == "logits_projection")


def step_costs(plan: Plan, n_tokens: int = 1, kv_len: int = 1, n_outputs: int = 1) -> tuple[StepCost, ...]:
    """What each step of the plan costs for a batch whose tokens each see ``kv_len`` positions."""
    rows = {"tokens": n_tokens, "outputs": n_outputs}
    costs = []
    for step in plan.steps:
        t = rows[plan.buffers[step.outputs[0].buffer].domain]
        work = OPS[step.op].cost(step.attrs, t, kv_len)
        weights = [plan.residents[i] for i in step.choices[0].residents]
        if step.op in GATHERED:
            read = sum(r.nbytes // r.rows * t for r in weights)
        elif step.op in ("threshold", "refine", "rescore"):
            read = 0  # the rows that the bounds leave: known when it has run
        elif step.op == "screen":
            read = sum(head_plane_bytes(r.rows, r.cols)[0] for r in weights)
        else:
            read = sum(r.nbytes for r in weights)
        costs.append(StepCost(work.macs, read, work.bytes))
    return tuple(costs)


def to_json(plan: Plan, n_tokens: int = 1, kv_len: int = 1) -> dict[str, Any]:
    """The whole plan as JSON data, costs included."""
    costs, spared = step_costs(plan, n_tokens, kv_len), without_candidates(plan)
    return {
        "architecture": plan.architecture,
        "backend": plan.backend,
        "profile": plan.profile,
        "graph_hash": plan.graph_hash,
        "plan_hash": plan.hash,
        "max_tokens": plan.max_tokens,
        "max_outputs": plan.max_outputs,
        "max_context": plan.max_context,
        "vocab_size": plan.vocab_size,
        "kv_bytes_per_token": kv_bytes_per_token(plan),
        "arena_bytes": plan.arena_bytes,
        "cost_of": {"n_tokens": n_tokens, "kv_len": kv_len},
        "buffers": [
            {"name": b.name, "dtype": b.dtype, "domain": b.domain, "width": b.width, "offset": b.offset}
            for b in plan.buffers
        ],
        "residents": [
            {"tensors": list(r.tensors), "layout": r.layout, "rows": r.rows, "cols": r.cols, "bytes": r.nbytes}
            for r in plan.residents
        ],
        "steps": [
            {
                "op": s.op,
                "label": s.label,
                "block": s.block,
                "attrs": dict(s.attrs),
                "inputs": [[o.buffer, o.column] for o in s.inputs],
                "outputs": [[o.buffer, o.column] for o in s.outputs],
                "kernels": [
                    {"id": c.kernel, "t_min": c.t_min, "t_max": c.t_max or None, "residents": list(c.residents)}
                    for c in s.choices
                ],
                "macs": cost.macs,
                "weight_bytes": cost.weight_bytes,
                "activation_bytes": cost.activation_bytes,
                "for_candidates": i not in spared,
            }
            for i, (s, cost) in enumerate(zip(plan.steps, costs, strict=True))
        ],
    }


def describe(plan: Plan, n_tokens: int = 1, kv_len: int = 1) -> str:
    """The plan as lines of text: each run of equal layers is printed once."""
    costs = step_costs(plan, n_tokens, kv_len)
    lines = [
        f"{plan.architecture} on {plan.backend} · {plan.profile} · T = {n_tokens}, kv_len = {kv_len}",
        f"graph {plan.graph_hash[:16]} · plan {plan.hash[:16]} · {len(plan.steps)} steps · "
        f"arena {_amount(plan.arena_bytes)}B · KV {_amount(kv_bytes_per_token(plan))}B a token",
        "",
        f"{'step':<26}{'op':<22}{'K → N':<15}{'kernel':<56}{'MACs':>9}{'bytes':>9}",
    ]
    blocks = [list(group) for _, group in groupby(zip(plan.steps, costs, strict=True), key=lambda p: p[0].block)]
    for _, same in groupby(blocks, key=lambda block: [_row(s, c) for s, c in block]):
        run = list(same)
        if run[0][0][0].block >= 0:
            lines.append(f"× {len(run)} layer{'s' if len(run) > 1 else ''}")
        lines += [("  " if s.block >= 0 else "") + _row(s, c, 24 if s.block >= 0 else 26) for s, c in run[0]]
    spared = without_candidates(plan)
    if spared:
        names = " and ".join(plan.steps[i].op for i in sorted(spared))
        lines.append(f"{names}: for full logits; not in the total")
    macs, weights, activations = _sums(cost for i, cost in enumerate(costs) if i not in spared)
    lines.append(
        f"total: {_amount(macs)} MACs · weights {_amount(weights)}B · activations and cache {_amount(activations)}B"
    )
    return "\n".join(lines)


def kv_bytes_per_token(plan: Plan) -> int:
    """Bytes that one position takes in the cache."""
    kind = cache_of(step.op for step in plan.steps)
    return plan.n_kv_layers * 2 * plan.n_kv_heads * vector_bytes(kind, plan.head_dim)


def _row(step: Step, cost: StepCost, width: int = 26) -> str:
    kernels = " | ".join(c.kernel for c in step.choices)
    a = step.attrs
    wide = "k" in a and ("n" in a or step.op in ("logits_projection", *SCREENED_HEAD))
    shape = f"{int(a['k'])} → {int(a.get('n', a.get('vocab', 0)))}" if wide else f"{int(a['k'])}" if "k" in a else ""
    op = f"{step.op} +=" if a.get("accumulate") else step.op
    label = "" if step.label == step.op else step.label
    return f"{label:<{width}}{op:<22}{shape:<15}{kernels:<56}{_amount(cost.macs):>9}{_amount(cost.bytes):>9}"


def _sums(costs: Iterable[StepCost]) -> tuple[int, int, int]:
    rows = [(c.macs, c.weight_bytes, c.activation_bytes) for c in costs]
    return sum(r[0] for r in rows), sum(r[1] for r in rows), sum(r[2] for r in rows)


def _amount(n: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n} "
