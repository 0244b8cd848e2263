"""Is the machine quiet?"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import BANDWIDTH, BUSY, CONTROL, QUIET_PERCENT, Phase
from tritium.bench.stats import ratio

STAT = Path("/proc/stat")
LOUD_SHARE = 0.05
"""How often others may take more than a quiet machine's share: medians of rounds bear that."""
DRIFT = 0.25
"""How much the middle bandwidth may differ between the halves of a run."""
CONTROL_SHARE = 0.05
"""How much an engine may differ from itself, in the median of the rounds."""


def parse_times(text: str) -> tuple[int, int]:
    """Ticks of all CPUs since the start: (idle, all), from the text of /proc/stat. Waiting for a disk is idle, too."""
    ticks = [int(number) for number in text.splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def busy_percent(before: tuple[int, int], after: tuple[int, int]) -> float:
    """The share of CPU time between two readings that was not idle; 0 if no tick passed."""
    idle, every = after[0] - before[0], after[1] - before[1]
    return 100.0 * (every - idle) / every if every else 0.0


def others_percent(seconds: float = 0.2) -> float:
    """What others take of all CPUs while this process sleeps. Errors: OSError where the system has no /proc/stat."""
    before = parse_times(STAT.read_text(encoding="ascii"))
    time.sleep(seconds)
    return busy_percent(before, parse_times(STAT.read_text(encoding="ascii")))


def own_ratio(samples: Mapping[str, Sequence[float]], engine: str) -> float:
    """The middle of an engine's ratios to itself, which is 1 but for noise."""
    return ratio(samples[engine], samples[CONTROL]).median


def agrees(same: float) -> bool:
    """Whether an engine that was ``same`` times itself is as near to itself as it has to be."""
    return abs(same - 1) <= CONTROL_SHARE


def noise_of(phases: Sequence[Phase]) -> dict[str, Any]:
    """Whether the machine was quiet, by what others took between measurements, bandwidth, and A/A controls.

    ``phases`` in the order of time. Bandwidth may flip from round to round: every figure is held against that of its own. What
    would favor a phase is a drift, so the rounds with the most threads are cut in two halves, whose middles are compared.
    """
    reasons = []
    taken = [x for phase in phases for x in phase.rounds.samples.get(BUSY, [])]
    if not taken:
        reasons.append("what others took of the CPUs was not measured")
    loud = sum(x > QUIET_PERCENT for x in taken)
    if loud > LOUD_SHARE * len(taken):
        reasons.append(
            f"others took up to {max(taken):.0f} % of the CPUs, more than {QUIET_PERCENT:.0f} % {loud} of {len(taken)} times"
        )
    most = max((phase.n_threads for phase in phases), default=0)
    read = [x for phase in phases if phase.n_threads == most for x in phase.rounds.samples[BANDWIDTH]]
    halves = None
    if len(read) < 2:
        reasons.append("bandwidth was measured in fewer than two rounds")
    else:
        half = len(read) // 2
        first, second = halves = median(read[:half]), median(read[half:])
        if abs(second / first - 1) > DRIFT:
            reasons.append(f"bandwidth went from {first:.3g} to {second:.3g} GB/s")
    for phase in phases:
        if CONTROL in phase.rounds.samples:
            engine = next(iter(phase.heads))
            same = own_ratio(phase.rounds.samples, engine)
            if not agrees(same):
                reasons.append(
                    f"in {phase.name} with {phase.n_threads} threads ({phase.isa}) {engine} was {same:.3g} times itself"
                )
    return {
        "is_quiet": not reasons,
        "reasons": reasons,
        "others_percent": None if not taken else {"median": median(taken), "most": max(taken)},
        "bandwidth_of_halves": halves,
    }
