"""E2: the processor was as busy as the run says."""

from __future__ import annotations

from collections.abc import Iterator

from tritium.gates._check import Check, check
from tritium.gates._facts import Facts
from tritium.gates._policy import Policy


def gate(facts: Facts, policy: Policy) -> Iterator[Check]:
    """Busy time within the wall clock; user + system ≤ wall · threads; a run that slept computed nothing."""
    if facts.evidence is None:
        yield from (check(name, "E2", None, hint="No counters to judge by")
                    for name in ("busy_time", "cpu_time_ceiling", "cpu_time_floor"))  # fmt: skip
        return
    run, ledger = facts.run, facts.ledger
    busy = sum(s.ns for s in facts.steps)
    inside = ledger["wall_ns"]
    fits = False if busy > 1.01 * inside else True if busy > inside / 2 else None
    yield check("busy_time", "E2", fits, busy, f"most of {inside}", "The steps fill the executor's time, and no more")
    wall, used = run["wall_ns"], run["user_ns"] + run["system_ns"]
    most = wall * run["threads"] * policy.get("physics", "cpu_time_slack") + policy.get("physics", "cpu_time_slack_ns")
    # NumPy's matrix products bring threads of their own, which the reference back end does not count.
    excess = None if facts.data["backend"] == "reference" else False
    yield check(
        "cpu_time_ceiling", "E2", used <= most or excess, used, f"at most {most:.0f}", "More CPU time than threads had"
    )
    least = policy.get("physics", "least_cpu_share") * wall
    if used >= least:
        yield check("cpu_time_floor", "E2", True, used, f"at least {least:.0f}")
    elif wall < policy.get("physics", "least_wall_ns"):
        yield check("cpu_time_floor", "E2", None, used, f"at least {least:.0f}", "Too short to tell")
    else:
        turn = policy.get("physics", "longest_turn_ns")
        quota = facts.machine["cpu_quota"]
        excused = (
            run["major_faults"] > 0
            or run["involuntary_switches"] * turn >= wall - used
            or (quota is not None and quota < run["threads"])
            or facts.machine["os"] == "windows"  # which tells neither faults nor turns
        )
        yield check("cpu_time_floor", "E2", None if excused else False, used, f"at least {least:.0f}",
                    "It waited, for pages or for a turn" if excused else "It slept: nothing was computed")  # fmt: skip
