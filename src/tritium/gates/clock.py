"""E1: times of tokens and passes are those of something that happened, once, in the past."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise

from tritium.gates._check import Check, check, not_applicable
from tritium.gates._facts import Facts
from tritium.gates._policy import Policy
from tritium.receipts.schema import parse_time


def gate(facts: Facts, policy: Policy) -> Iterator[Check]:
    """Order of times, intervals, passes, UTC against the monotonic clock, the judge's now."""
    stamp = parse_time(facts.data["timestamp"])
    latest = facts.now + timedelta(seconds=policy.get("arithmetic", "future_s"))
    ended = parse_time(facts.run["ended"]) if facts.evidence else stamp
    yield check("not_future", "E1", max(stamp, ended) <= latest, facts.data["timestamp"], facts.now.isoformat(),
                "It lies in the future: a clock is wrong, or it was made up")  # fmt: skip
    if facts.evidence is None:
        yield from (not_applicable(name, "E1", "no times") for name in
                    ("token_clock", "token_intervals", "pass_times", "wall_clock", "utc_clock"))  # fmt: skip
        return
    every = [s["token_ns"] for s in facts.sequences]
    order = next((f"token {i} at {t[i]} ns" for t in every for i in range(1, len(t)) if t[i] <= t[i - 1]), None)
    yield check("token_clock", "E1", order is None, order, "strictly increasing times",
                "A clock that runs forward gives each pass a later time")  # fmt: skip
    least = int(policy.get("arithmetic", "constant_interval_tokens"))
    found = [_intervals(times, least) for times in every]
    yield next((c for status in ("FAIL", "PASS") for c in found if c.status == status), found[0])
    yield _passes(facts)
    yield _wall(facts, policy)
    yield _utc(facts, policy)


def _intervals(times: list[int], least: int) -> Check:
    steps = [b - a for a, b in pairwise(times)]
    if len(steps) < least:
        return not_applicable("token_intervals", "E1", "too few tokens")
    ordered = sorted(steps)
    # A generator that spreads a total evenly leaves steps that differ by rounding alone; a clock never does.
    bulk = ordered[-1 - len(ordered) // 10] - ordered[len(ordered) // 10]
    return check(
        "token_intervals", "E1", bulk > 2, bulk, "intervals that vary", "Equal intervals are computed, not measured"
    )


def _passes(facts: Facts) -> Check:
    """Each pass lies after the tokens before it, and its tokens after it, no two at a time."""
    before = 0
    seen: set[int] = set()
    rows = [iter(s["token_ns"]) for s in facts.sequences]
    for i, (p, parts) in enumerate(zip(facts.run["passes"], facts.passes, strict=True)):
        end = p["start_ns"] + p["ns"]
        if p["start_ns"] < before:
            return check(
                "pass_times", "E1", False, p["start_ns"], f"at least {before}", f"pass {i} overlaps what came before"
            )
        before = end
        for part in parts:
            if not part.is_due:
                continue
            t = next(rows[part.sequence], None)
            if t is None or t < end:
                return check("pass_times", "E1", False, end, "a token after the pass", f"pass {i} ends after its token")
            if t in seen:
                return check("pass_times", "E1", False, t, "a time a token", f"pass {i}: one token is chosen at a time")
            seen.add(t)
            before = max(before, t)
    last_free = facts.last_ns - sum(p["ns"] for p in facts.run["passes"])
    return check("pass_times", "E1", last_free >= 0, last_free, "at least 0", "The passes take longer than the run")


def _wall(facts: Facts, policy: Policy) -> Check:
    run = facts.run
    last, wall = facts.last_ns, run["wall_ns"]
    most = last * (1 + policy.get("arithmetic", "wall_slack")) + policy.get("arithmetic", "wall_slack_ns")
    within = last <= wall <= most
    if not within:
        return check("wall_clock", "E1", False, wall, f"{last} to {most:.0f}", "The run ends with its last token")
    inside = facts.ledger["wall_ns"]
    passes = sum(p["ns"] for p in run["passes"])
    # On a busy machine another program may run between the two clocks' readings.
    fits = False if inside > passes else True if inside > passes / 2 else None
    return check("wall_clock", "E1", fits, inside, f"most of {passes}",
                 "The executor's time lies inside the passes, and fills them unless it had to wait")  # fmt: skip


def _utc(facts: Facts, policy: Policy) -> Check:
    run = facts.run
    started, ended = parse_time(run["started"]), parse_time(run["ended"])
    elapsed = (ended - started) / timedelta(microseconds=1) * 1e3
    slack = run["wall_ns"] * policy.get("arithmetic", "utc_slack") + policy.get("arithmetic", "utc_slack_ns")
    if elapsed < 0:
        return check("utc_clock", "E1", False, elapsed, "at least 0", "It ended before it started")
    if abs((parse_time(facts.data["timestamp"]) - started).total_seconds()) > 1:
        return check(
            "utc_clock", "E1", False, facts.data["timestamp"], run["started"], "The timestamp is that of the start"
        )
    return check("utc_clock", "E1", abs(elapsed - run["wall_ns"]) <= slack, elapsed, run["wall_ns"],
                 "UTC and the monotonic clock measured different runs")  # fmt: skip
