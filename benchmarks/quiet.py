"""Is the machine quiet?"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.lab.bench import Bench, Point
from benchmarks.report import BANDWIDTH, BUSY, CONTROL, NEAR, QUIET_PERCENT, Phase, counted
from tritium.bench.stats import ratio

STAT = Path("/proc/stat")
LOUD_SHARE = 0.05
"""How often others may take more than a quiet machine's share: medians of rounds bear that."""
DRIFT = 0.25
"""How much the middle bandwidth may differ between the halves of a run."""
CONTROL_SHARE = 0.05
"""How much an engine may differ from itself, in the median of the rounds."""
CALM_SHARE = 0.95
"""What the middle of three probes has to reach of the best one before a round begins."""
FIRST_PROBES = 100
"""How many the first round waits for: on a loud machine a few of them meet calm, and tell what that is."""
PROBE = Point("linear", 128, 2560, 256)
"""Products that caches feed: who uses the other half of a core takes a third of their speed, of those of registers a tenth."""
PROBE_PASSES = 200
NEAR_SHARE = 0.9
"""What the probes within a round and at its end have to reach of the best one; in the verdict the middle of those within."""
PATIENCE_S = 240.0
"""How much longer a run may take than on a calm machine."""


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


def probe(isa: str, n_threads: int) -> Callable[[], float]:
    """What tells whether the machine is calm: the middle speed of a small product, about 50 ms long."""
    bench = Bench(PROBE, isa, n_threads)
    return lambda: median(done.macs / done.ns for done in (bench.run() for _ in range(PROBE_PASSES)))


@dataclass(slots=True)
class Patience:
    """Time that a run may spend on waiting for calm before rounds, and on rounds that are set aside since it did not last.

    A work may take a quarter of what is left when it begins, so that those behind it have theirs. Speeds are of probes: they
    know nothing of what is measured.
    """

    whole_s: float = PATIENCE_S
    left_s: float = field(init=False)
    kept_s: float = field(init=False, default=0.0)
    best: dict[tuple[str, int], float] = field(init=False, default_factory=dict)
    began: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.left_s = self.whole_s

    @property
    def spent_s(self) -> float:
        """What was taken of it."""
        return self.whole_s - self.left_s

    @property
    def is_out(self) -> bool:
        """Whether the work that is measured has taken its part."""
        return self.left_s <= self.kept_s

    def begin(self) -> None:
        """Another work begins."""
        self.kept_s = 3 / 4 * self.left_s

    def wait(self, kind: tuple[str, int], probe: Callable[[], float]) -> None:
        """Return when the middle of three probes is near the best of their kind, or when patience is out."""
        begun, left, last = time.monotonic(), self.left_s, deque[float](maxlen=3)
        n_left = 3 if kind in self.best else FIRST_PROBES
        while not self.is_out and (n_left > 0 or median(last) < CALM_SHARE * self.best[kind]):
            last.append(probe())
            self.best[kind] = max(self.best.get(kind, 0.0), last[-1])
            self.left_s = left - (time.monotonic() - begun)
            n_left -= 1
        self.began = time.monotonic()

    def counts(self, kind: tuple[str, int], *found: float) -> bool:
        """Whether the round since the last wait counts: what probes found in it is near the best, or patience is out."""
        self.best[kind] = max(self.best.get(kind, 0.0), *found)
        if self.is_out or min(found) >= NEAR_SHARE * self.best[kind]:
            return True
        self.left_s -= time.monotonic() - self.began
        return False


def noise_of(phases: Sequence[Phase]) -> dict[str, Any]:
    """Whether the machine was quiet, by what others took between measurements, bandwidth, probes, and A/A controls.

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
    probes: dict[tuple[str, int], list[float]] = {}
    for phase in phases:
        probes.setdefault((phase.isa, phase.n_threads), []).extend(phase.rounds.samples.get(NEAR, []))
    for (isa, n_threads), found in probes.items():
        if found and (share := median(found) / max(found)) < NEAR_SHARE:
            reasons.append(f"the near product ran at {100 * share:.0f} % of its best with {counted(n_threads)} ({isa})")
    for phase in phases:
        if CONTROL in phase.rounds.samples:
            engine = next(iter(phase.heads))
            same = ratio(phase.rounds.samples[engine], phase.rounds.samples[CONTROL]).median
            if abs(same - 1) > CONTROL_SHARE:
                reasons.append(
                    f"in {phase.name} with {counted(phase.n_threads)} ({phase.isa}) {engine} was {same:.3g} times itself"
                )
    return {
        "is_quiet": not reasons,
        "reasons": reasons,
        "others_percent": None if not taken else {"median": median(taken), "most": max(taken)},
        "bandwidth_of_halves": halves,
    }
