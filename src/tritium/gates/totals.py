"""E1: what the ledger and the bandwidth measurement say twice, they say alike."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from tritium.gates._check import Check, check, not_applicable
from tritium.gates._facts import ATTENTION, HEAD, LINEAR, SCREENED_HEAD, Facts
from tritium.gates._policy import Policy

FAMILY_OF = {LINEAR: "body", ATTENTION: "attention", HEAD: "head", **dict.fromkeys(SCREENED_HEAD, "head")}


def gate(facts: Facts, policy: Policy) -> Iterator[Check]:
    """Families are the sums of their steps; the median is that of the samples."""
    if facts.evidence is None:
        yield from (not_applicable(name, "E1", "no evidence") for name in ("ledger_totals", "bandwidth_samples"))
        return
    yield _families(facts)
    probe = facts.evidence["bandwidth"]
    if probe is None:
        yield check(
            "bandwidth_samples", "E1", None, None, "a measured bandwidth", "Nothing was measured beside the run"
        )
        return
    samples = probe["samples_gb_per_s"]
    good = probe["median_gb_per_s"] == median(samples) and probe["n_threads"] == facts.run["threads"]
    yield check("bandwidth_samples", "E1", good, probe["median_gb_per_s"], median(samples),
                "The median of the samples, with the threads of the run")  # fmt: skip


def _families(facts: Facts) -> Check:
    names = ("calls", "macs", "macs_skipped", "bytes", "ns")
    sums = {family: dict.fromkeys(names, 0) for family in ("body", "attention", "head", "other")}
    seen = set()
    for s in facts.steps:
        if (s.block, s.label, s.kernel) in seen:
            return check(
                "ledger_totals",
                "E1",
                False,
                f"{s.block}.{s.label}",
                "each step and kernel once",
                "A row stands there twice",
            )
        seen.add((s.block, s.label, s.kernel))
        for name in names:
            sums[FAMILY_OF.get(s.op, "other")][name] += getattr(s, name)
    for row in facts.ledger["families"]:
        for name in names:
            if row[name] != sums.get(row["family"], {}).get(name):
                return check("ledger_totals", "E1", False, row[name], sums[row["family"]][name],
                             f"{row['family']} {name}: not the sum of its steps")  # fmt: skip
    given = [row["family"] for row in facts.ledger["families"]]
    return check("ledger_totals", "E1", sorted(given) == sorted(sums), ", ".join(given), ", ".join(sums))
