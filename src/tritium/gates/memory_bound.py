"""E2: no pass is faster than memory lets it be, and what was read was there."""

from __future__ import annotations

from collections.abc import Iterator

from tritium.gates._check import Check, check, not_applicable
from tritium.gates._facts import ATTENTION, HEAD, LINEAR, Facts
from tritium.gates._policy import Policy

NAMES = ("memory_time", "kernel_bandwidth", "resident_memory", "bandwidth_ceiling")


def gate(facts: Facts, policy: Policy) -> Iterator[Check]:
    """time ≥ (unique bytes − last-level cache)/bandwidth for each pass; per kernel, the caches' speed; resident memory."""
    if facts.evidence is None:
        yield from (check(name, "E2", None, hint="No counters to judge by") for name in NAMES)
        return
    ceiling, source = _ceiling(facts, policy)
    probe = facts.evidence["bandwidth"]
    if probe is None:
        yield check("bandwidth_ceiling", "E2", None, None, source, "No bandwidth was measured beside the run")
    else:
        fastest = max(probe["samples_gb_per_s"])
        # Slow samples are those of a busy machine; a fast one among them is what nothing else confirms.
        spread = fastest / probe["median_gb_per_s"]
        good = False if fastest > ceiling * policy.get("physics", "bandwidth_slack") else None if spread > 8 else True
        if good and probe["nbytes"] < policy.get("physics", "least_probe_bytes"):
            good = None
        yield check("bandwidth_ceiling", "E2", good, fastest, f"at most {ceiling:g} GB/s ({source})",
                    "Not the bandwidth of this machine's memory, or the probe fits its caches")  # fmt: skip
    yield _passes(facts, policy, max(probe["samples_gb_per_s"]) if probe else None, ceiling)
    yield _kernels(facts, policy)
    touched = facts.linear_bytes + facts.head_bytes + facts.cache_bytes(facts.n_forwarded)
    least = policy.get("physics", "least_resident_share") * touched
    rss = facts.run["peak_rss_bytes"]
    yield check(
        "resident_memory", "E2", rss >= least, rss, f"at least {least:.0f}", "It read more than ever was in memory"
    )


def _ceiling(facts: Facts, policy: Policy) -> tuple[float, str]:
    """The fastest that this machine's memory can be, in GB/s, and why."""
    threads = (
        facts.evidence["bandwidth"]["n_threads"]
        if facts.evidence and facts.evidence["bandwidth"]
        else facts.run["threads"]
    )
    of_threads = min(policy.get("physics", "thread_gb_per_s") * threads, policy.get("physics", "machine_gb_per_s"))
    of_cpu = policy.cpu_gb_per_s(facts.machine["cpu"])
    if of_cpu is not None and of_cpu < of_threads:
        return of_cpu, "of this processor"
    return of_threads, f"of {threads} threads"


def _last_level(facts: Facts, policy: Policy) -> tuple[int, bool]:
    """Bytes of the largest cache, and whether the receipt tells it."""
    most = int(policy.get("physics", "max_cache_bytes"))
    sizes = [c["size_bytes"] for c in facts.machine["caches"]]
    return (min(max(sizes), most), True) if sizes else (most, False)


def _passes(facts: Facts, policy: Policy, measured: float | None, ceiling: float) -> Check:
    cache, is_told = _last_level(facts, policy)
    worst, at = 0.0, 0
    for i, p in enumerate(facts.run["passes"]):
        speed = max(facts.pass_bytes(i) - cache, 0) / p["ns"]
        if speed > worst:
            worst, at = speed, i
    hint = f"pass {at} is faster than memory, with {cache} bytes of cache taken off"
    slack = policy.get("physics", "bandwidth_slack")
    if worst > ceiling * slack:
        return check("memory_time", "E2", False, worst, f"at most {ceiling:g} GB/s", hint)
    if measured is not None and worst > measured * policy.get("physics", "bandwidth_impossible"):
        return check("memory_time", "E2", False, worst, f"at most {measured:g} GB/s, as measured", hint)
    if worst == 0:
        # All of it fits the cache: the time is bound by arithmetic, and by how fast caches are.
        return check(
            "memory_time", "E2", True if is_told else None, worst, None, "The receipt does not tell the caches"
        )
    if measured is None:
        return check(
            "memory_time", "E2", None, worst, f"at most {ceiling:g} GB/s", "No bandwidth was measured beside the run"
        )
    return check("memory_time", "E2", True if worst <= measured * slack and is_told else None, worst,
                 f"at most {measured * slack:.4g} GB/s", hint)  # fmt: skip


def _kernels(facts: Facts, policy: Policy) -> Check:
    """Bytes over time of every row with weights or cache: not above what caches give; rows bound by memory not above memory."""
    limit = policy.get("physics", "cache_gb_per_s_per_thread") * facts.run["threads"]
    worst, name = 0.0, ""
    for s in facts.steps:
        if s.op in (LINEAR, HEAD, ATTENTION) and s.bytes:
            speed = s.bytes / max(s.ns, 1)
            if speed > worst:
                worst, name = speed, f"{s.block}.{s.label} {s.kernel}"
    if not name:
        return not_applicable("kernel_bandwidth", "E2", "no bytes were counted")
    return check(
        "kernel_bandwidth", "E2", worst <= limit, worst, f"at most {limit:g} GB/s", f"{name}: no cache is so fast"
    )
