"""What this process costs: the most memory that it held, and the energy of the processor's counters."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tritium.resources import memory

SAMPLE_S = 0.01
_RAPL = "sys/class/powercap"


def forget_peak() -> None:
    """Let the peak begin anew from what is held now, where the system can: what a probe took is not the model's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


class AnonymousPeak:
    """The most anonymous memory that was seen: every ``SAMPLE_S`` seconds inside a ``with`` block, and at each ``look``."""

    def __init__(self) -> None:
        self.peak_bytes: int | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Take one sample."""
        now = memory().anonymous_bytes
        if now is not None:
            self.peak_bytes = max(now, self.peak_bytes or 0)

    def __enter__(self) -> AnonymousPeak:
        self._stop.clear()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.look()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self.look()


@dataclass(frozen=True, slots=True)
class EnergyCounter:
    """One RAPL zone: microjoules since some moment, beginning anew beyond ``range_uj``."""

    name: str
    path: Path
    range_uj: int


class Energy:
    """The processor packages' energy counters. ``why_not`` says why there are none: no zone, or no permission to read one."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.counters: list[EnergyCounter] = []
        self.why_not: str | None = None
        zones = sorted((root / _RAPL).glob("intel-rapl:[0-9]*"))
        for zone in (z for z in zones if z.name.count(":") == 1):
            try:
                name = (zone / "name").read_text(encoding="ascii").strip()
                most = int((zone / "max_energy_range_uj").read_text(encoding="ascii"))
                int((zone / "energy_uj").read_text(encoding="ascii"))
            except PermissionError:
                self.why_not = f"{zone / 'energy_uj'} cannot be read; as root: chmod o+r {zone / 'energy_uj'}"
            except (OSError, ValueError) as error:
                self.why_not = f"{zone}: {error}"
            else:
                self.counters.append(EnergyCounter(name, zone / "energy_uj", most))
        if self.counters:
            self.why_not = None
        elif not zones:
            self.why_not = f"this machine shows no energy counter under /{_RAPL}"

    def read(self) -> list[int] | None:
        """Microjoules of each counter now, None without counters."""
        if not self.counters:
            return None
        return [int(counter.path.read_text(encoding="ascii")) for counter in self.counters]

    def joules(self, before: list[int] | None, after: list[int] | None) -> float | None:
        """Joules between two readings, all packages together; a counter may have begun anew once."""
        if before is None or after is None:
            return None
        spent = (
            (b - a) % (c.range_uj + 1) if b < a else b - a for c, a, b in zip(self.counters, before, after, strict=True)
        )
        return sum(spent) / 1e6
