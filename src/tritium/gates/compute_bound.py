"""E2: no kernel and no pass does more multiply-accumulates than its cores can."""

from __future__ import annotations

from collections.abc import Iterator

from tritium.gates._check import Check, check
from tritium.gates._facts import HEAD, LINEAR, Facts
from tritium.gates._policy import Policy
from tritium.receipts import registry


def gate(facts: Facts, policy: Policy) -> Iterator[Check]:
    """MACs ≤ time · threads · frequency · MACs a cycle of the instruction set."""
    if facts.evidence is None:
        yield from (
            check(name, "E2", None, hint="No counters to judge by") for name in ("compute_time", "kernel_compute")
        )
        return
    threads = min(facts.run["threads"], facts.machine["n_cpus"])
    peak = policy.get("physics", "ghz") * policy.get("physics", "compute_slack") * threads
    rates = {name: peak * isa["macs_per_cycle"] for name, isa in policy.isas.items()}
    fastest = max(
        (rates.get(_isa(s.kernel), rates["any"]) for s in facts.steps if s.op == LINEAR), default=rates["any"]
    )
    worst = max((facts.pass_macs(p) / p["ns"], i) for i, p in enumerate(facts.run["passes"]))
    yield check("compute_time", "E2", worst[0] <= fastest, worst[0], f"at most {fastest:.4g} GMAC/s",
                f"pass {worst[1]} computes more than its cores can")  # fmt: skip
    found, bound, name = 0.0, 1.0, ""
    for s in facts.steps:
        limit = rates.get(_isa(s.kernel), rates["any"])
        if s.op in (LINEAR, HEAD) and s.macs / max(s.ns, 1) / limit > found / bound:
            found, bound, name = s.macs / max(s.ns, 1), limit, f"{s.block}.{s.label} {s.kernel}"
    yield check("kernel_compute", "E2", found <= bound, found, f"at most {bound:.4g} GMAC/s",
                f"{name} computes more than its cores can")  # fmt: skip


def _isa(kernel: str) -> str:
    entry = registry.find(kernel)
    return entry.isa if entry is not None else "any"
