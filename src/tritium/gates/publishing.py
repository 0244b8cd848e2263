"""E1: figures that older receipts and reports publish beside a speed: stages, memory, envelopes, deltas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tritium.gates._check import Check, check, not_applicable
from tritium.gates._facts import Facts
from tritium.gates._policy import Policy


def gate(facts: Facts, policy: Policy) -> Iterator[Check]:
    """What ``performance_baseline`` claims."""
    claims: Mapping[str, Any] = facts.data.get("performance_baseline", {})
    yield _speed(claims.get("tokens_per_second"), facts.data.get("tokens_per_second"), policy)
    yield from _stages(claims, facts.tokens_per_second, policy)
    rss, weights = claims.get("rss_bytes"), claims.get("weight_bytes")
    if rss and weights:
        least = policy.get("publishing", "least_resident_share") * weights
        yield check(
            "published_memory", "E2", rss >= least, rss, f"at least {least:.0f}", "The weights alone take more memory"
        )
    else:
        yield not_applicable("published_memory", "E2", "no memory is published")
    yield _delta(claims, facts.tokens_per_second)
    yield _envelope(claims.get("envelope"), policy)


def _speed(nested: float | None, flat: float | None, policy: Policy) -> Check:
    """Readers of one shape or the other are to see one speed."""
    if nested is None or flat is None:
        return not_applicable("published_speed", "E1", "one speed is told")
    good = abs(nested - flat) <= policy.get("arithmetic", "rate_tolerance") * flat
    return check(
        "published_speed", "E1", good, nested, flat, "Two speeds of one run: tokens_per_second stands there twice"
    )


def _stages(claims: Mapping[str, Any], speed: float | None, policy: Policy) -> Iterator[Check]:
    stages = claims.get("stages")
    if not stages:
        yield from (not_applicable(n, level, "no stages are published")
                    for n, level in (("published_stages", "E1"), ("published_bandwidth", "E2")))  # fmt: skip
        return
    total = sum(s["us"] for s in stages)
    points = policy.get("arithmetic", "percent_tolerance") * 5
    wrong = next(
        (s for s in stages if "percent" in s and abs(100 * s["us"] / max(total, 1e-9) - s["percent"]) > points), None
    )
    ratio = 1e6 / total / speed if speed and total else None
    hint = "A token takes 1e6/(tok/s) µs"
    if ratio is not None and ratio > 100:
        hint = f"{hint}: the stages give {1e6 / total:.4g} tok/s. Looks like ms written as µs"
    if wrong is not None:
        yield check("published_stages", "E1", False, wrong["percent"], 100 * wrong["us"] / max(total, 1e-9),
                    f"{wrong['name']}: not its share of the stages")  # fmt: skip
    else:
        yield check(
            "published_stages", "E1", ratio is None or 0.9 < ratio < 1.1, total, 1e6 / speed if speed else None, hint
        )
    ceiling = policy.get("physics", "cache_gb_per_s_per_thread")
    speeds = {s["name"]: s["nbytes"] / s["us"] / 1e3 for s in stages if s.get("nbytes") and s["us"]}
    fastest = max(speeds, key=lambda name: speeds[name], default=None)
    if fastest is None:
        yield not_applicable("published_bandwidth", "E2", "no bytes are published")
    else:
        yield check("published_bandwidth", "E2", speeds[fastest] <= ceiling, f"{fastest}: {speeds[fastest]:.4g} GB/s",
                    f"at most {ceiling:g} GB/s", "No memory is so fast")  # fmt: skip


def _delta(claims: Mapping[str, Any], speed: float | None) -> Check:
    if "baseline_tokens_per_second" not in claims and "delta_percent" not in claims:
        return not_applicable("published_delta", "E1", "no comparison is published")
    baseline, delta = claims.get("baseline_tokens_per_second"), claims.get("delta_percent")
    if not baseline or not speed:
        return check("published_delta", "E1", False, f"{speed} against {baseline}", "two speeds above 0",
                     "Between nothing and nothing there is no 0 % delta")  # fmt: skip
    true = 100 * (speed / baseline - 1)
    good = delta is not None and abs(delta - true) <= 0.5
    return check("published_delta", "E1", good, delta, true, "Not the difference of the two speeds")


def _envelope(envelope: Mapping[str, Any] | None, policy: Policy) -> Check:
    if envelope is None:
        return not_applicable("published_envelope", "E1", "no envelope is published")
    low, high, tolerance = envelope["low"], envelope["high"], envelope["tolerance_percent"]
    worst = 100 * (1 - low * (1 - tolerance / 100) / high) if high else 100.0
    most = policy.get("publishing", "envelope_loss_percent")
    return check("published_envelope", "E1", worst <= most, f"−{worst:.0f} %", f"at most −{most:g} %",
                 "An envelope that lets so much speed go is no gate")  # fmt: skip
