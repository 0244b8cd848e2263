"""What the operating system grants this process and what the process holds: CPUs and memory. What it does not tell is None."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows
    resource = None

MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes of the unit in which the system tells the most that a process held."""
ROOT = Path("/")
_GROUPS = "sys/fs/cgroup"
_ROOT_GROUPS = "2:memory:/\n1:cpu:/\n0::/"


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of this process: the most it held at once; now anonymous and file-backed, None where the system does not tell."""

    peak_bytes: int
    anonymous_bytes: int | None
    file_backed_bytes: int | None


def memory() -> Memory:
    """Read the process's memory from the operating system."""
    if resource is None:
        peak = _peak_working_set()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT
    status = read_text(Path("/proc/self/status")) or ""
    found = dict(re.findall(r"^(RssAnon|RssFile):\s+(\d+) kB$", status, re.MULTILINE))
    parts = [int(found[key]) * 1024 if key in found else None for key in ("RssAnon", "RssFile")]
    return Memory(peak, *parts)


def _peak_working_set() -> int:
    """What Windows calls the peak of this process's memory."""
    import ctypes

    class Counters(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS of psapi.h."""

        _fields_ = (("size", ctypes.c_uint32), ("page_faults", ctypes.c_uint32), ("peak_working_set", ctypes.c_size_t),
                    ("others", ctypes.c_size_t * 7))  # fmt: skip

    counters = Counters(size=ctypes.sizeof(Counters))
    system = ctypes.windll.kernel32  # type: ignore[attr-defined]
    system.GetCurrentProcess.restype = ctypes.c_void_p
    if not system.K32GetProcessMemoryInfo(
        ctypes.c_void_p(system.GetCurrentProcess()), ctypes.byref(counters), counters.size
    ):
        raise OSError("the system does not tell this process's memory")
    return int(counters.peak_working_set)


@dataclass(frozen=True, slots=True)
class Usage:
    """What this process has used so far. Faults and switches are 0 on Windows, which does not tell them."""

    user_ns: int
    system_ns: int
    major_faults: int
    involuntary_switches: int


def usage() -> Usage:
    """Read the process's use of its CPUs from the operating system."""
    if resource is None:
        times = os.times()
        return Usage(round(times.user * 1e9), round(times.system * 1e9), 0, 0)
    told = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(round(told.ru_utime * 1e9), round(told.ru_stime * 1e9), told.ru_majflt, told.ru_nivcsw)


def allowed_cpus() -> set[int]:
    """Numbers of the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def usable_cpus(root: Path = ROOT, allowed: set[int] | None = None) -> int:
    """How many threads have a CPU each: the allowed CPUs, or the whole ones of the control groups' quota if they are fewer."""
    n = len(allowed_cpus() if allowed is None else allowed)
    quota = cpu_quota(root)
    return n if quota is None else max(1, min(n, int(quota)))


def cpu_model(root: Path = ROOT) -> str | None:
    """The processor's name."""
    model = re.search(r"^model name\s*:\s*(.+)$", read_text(root / "proc/cpuinfo") or "", re.MULTILINE)
    return model[1].strip() if model else None


def cpu_quota(root: Path = ROOT) -> float | None:
    """The least limit of this process's control groups, in CPUs."""
    limits = []
    for group in _groups(root, "cpu"):
        quota, _, period = (read_text(group / "cpu.max") or "").partition(" ")
        if not period:
            quota = read_text(group / "cpu.cfs_quota_us") or ""
            period = read_text(group / "cpu.cfs_period_us") or ""
        if quota.isdigit() and period.isdigit() and int(period):
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def available_memory(root: Path = ROOT) -> int | None:
    """Bytes that this process can still take without swapping: of the machine, or of its control groups if they allow less.

    What only caches files counts as available.
    """
    info = re.search(r"^MemAvailable:\s+(\d+) kB$", read_text(root / "proc/meminfo") or "", re.MULTILINE)
    left = [int(info[1]) * 1024] if info else []
    for group in _groups(root, "memory"):
        for limit_name, usage_name, prefix in (
            ("memory.max", "memory.current", ""),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        ):
            limit, usage = (read_text(group / name) or "" for name in (limit_name, usage_name))
            if limit.isdigit() and usage.isdigit():
                files = re.findall(
                    rf"^{prefix}(?:in)?active_file (\d+)$", read_text(group / "memory.stat") or "", re.MULTILINE
                )
                left.append(max(0, int(limit) - max(0, int(usage) - sum(map(int, files)))))
    return min(left, default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control groups that may limit it, of both versions, from the root down.

    Inside a container the names that the process is told may not be there; the root is then its own.
    """
    for line in (read_text(root / "proc/self/cgroup") or _ROOT_GROUPS).splitlines():
        _, controllers, name = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        mounts = (controllers, controller) if controllers else ("", "unified")
        for mount in dict.fromkeys(mounts):
            path = PurePosixPath(name.lstrip("/"))
            for part in (*reversed(path.parents), path):
                yield root / _GROUPS / mount / part


def read_text(path: Path) -> str | None:
    """The stripped text of a file of the system; None if it is empty or cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None
