"""Is the machine quiet?"""

from __future__ import annotations

import time
from pathlib import Path

STAT = Path("/proc/stat")


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
