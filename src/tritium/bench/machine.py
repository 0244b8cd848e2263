"""What the machine is, as the operating system tells it. A fact that is not told is None, never guessed."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

from tritium.resources import ROOT, allowed_cpus, available_memory, cpu_model, cpu_quota, read_text

_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Names of other systems."""
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache of the first CPU: ``kind`` is Data, Instruction or Unified; ``n_cpus`` share it."""

    level: int
    kind: str
    size_bytes: int
    n_cpus: int


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts about the machine.

    ``n_cpus`` are those that this process may use, ``n_cores`` the physical cores behind them; ``cpu_quota`` is the control
    groups' limit in CPUs, ``memory_available_bytes`` what they and the machine leave; ``huge_pages`` is the mode of transparent
    huge pages; ``governor`` that of the first CPU; ``flags`` are the first CPU's features in the kernel's words.
    """

    os: str
    kernel: str
    architecture: str
    python: str
    cpu: str | None
    virtual: bool
    n_cpus: int
    n_cores: int | None
    cpu_quota: float | None
    caches: tuple[Cache, ...]
    memory_bytes: int | None
    memory_available_bytes: int | None
    huge_pages: str | None
    governor: str | None
    flags: tuple[str, ...] = ()


def count_cpus(cpu_list: str) -> int:
    """The number of CPUs in a kernel list such as ``0-3,8``. Errors: ValueError if it is no such list."""
    n = 0
    for part in cpu_list.split(","):
        first, _, last = part.partition("-")
        n += int(last or first) - int(first) + 1
    return n


def parse_size(text: str) -> int:
    """Bytes of a size such as ``32K``. Errors: ValueError if it is no such size."""
    match = re.fullmatch(r"(\d+)([KMG]?)", text)
    if match is None:
        raise ValueError(f"size: expected digits and K, M or G, got {text!r}")
    return int(match[1]) * _UNITS.get(match[2], 1)


def _caches(cpu: Path) -> tuple[Cache, ...]:
    caches = []
    for index in sorted((cpu / "cache").glob("index*")):
        level, kind, size, shared = (read_text(index / name) for name in ("level", "type", "size", "shared_cpu_list"))
        if level and kind and size and shared:
            caches.append(Cache(int(level), kind, parse_size(size), count_cpus(shared)))
    return tuple(sorted(caches, key=lambda cache: (cache.level, cache.kind)))


def _n_cores(cpus: Path, allowed: set[int]) -> int | None:
    cores = {read_text(cpus / f"cpu{number}" / "topology" / "thread_siblings_list") for number in allowed}
    return None if None in cores else len(cores)


def _memory_bytes(root: Path) -> int | None:
    match = re.search(r"^MemTotal:\s+(\d+) kB$", read_text(root / "proc/meminfo") or "", re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _in_brackets(text: str | None) -> str | None:
    match = re.search(r"\[(\w+)\]", text or "")
    return match[1] if match else None


def read_machine(root: Path = ROOT, allowed: set[int] | None = None) -> Machine:
    """Read the facts from the file systems under ``root``; ``allowed`` are the numbers of the CPUs to count."""
    if allowed is None:
        allowed = allowed_cpus()
    cpuinfo = read_text(root / "proc/cpuinfo") or ""
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    cpus = root / "sys/devices/system/cpu"
    return Machine(
        os=platform.system().lower(),
        kernel=platform.release(),
        architecture=_ARCHITECTURES.get(platform.machine().lower(), platform.machine()),
        python=platform.python_version(),
        cpu=cpu_model(root),
        virtual=re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE) is not None,
        n_cpus=len(allowed),
        n_cores=_n_cores(cpus, allowed),
        cpu_quota=cpu_quota(root),
        caches=_caches(cpus / "cpu0"),
        memory_bytes=_memory_bytes(root),
        memory_available_bytes=available_memory(root),
        huge_pages=_in_brackets(read_text(root / "sys/kernel/mm/transparent_hugepage/enabled")),
        governor=read_text(cpus / "cpu0/cpufreq/scaling_governor"),
        flags=tuple(flags[1].split()) if flags else (),
    )
