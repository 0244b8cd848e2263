"""Machine facts, read from file trees that the tests write."""

from __future__ import annotations

from pathlib import Path

import pytest

from tritium.bench.machine import Cache, count_cpus, parse_size, read_machine


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")


def test_a_machine_with_two_threads_a_core(tmp_path: Path) -> None:
    cpus = "sys/devices/system/cpu"
    write(
        tmp_path,
        {
            "proc/cpuinfo": "processor\t: 0\nmodel name\t: A CPU @ 3 GHz\nflags\t\t: fpu avx2 hypervisor",
            "proc/meminfo": "MemTotal:       16384 kB\nMemFree: 1 kB\nMemAvailable:    8192 kB",
            "sys/fs/cgroup/cpu.max": "150000 100000",
            "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
            f"{cpus}/cpu0/cpufreq/scaling_governor": "powersave",
            f"{cpus}/cpu0/topology/thread_siblings_list": "0,2",
            f"{cpus}/cpu1/topology/thread_siblings_list": "1,3",
            f"{cpus}/cpu2/topology/thread_siblings_list": "0,2",
            f"{cpus}/cpu0/cache/index1/level": "3",
            f"{cpus}/cpu0/cache/index1/type": "Unified",
            f"{cpus}/cpu0/cache/index1/size": "32M",
            f"{cpus}/cpu0/cache/index1/shared_cpu_list": "0-3",
            f"{cpus}/cpu0/cache/index0/level": "1",
            f"{cpus}/cpu0/cache/index0/type": "Data",
            f"{cpus}/cpu0/cache/index0/size": "48K",
            f"{cpus}/cpu0/cache/index0/shared_cpu_list": "0,2",
        },
    )
    machine = read_machine(tmp_path, {0, 1, 2})
    assert (machine.cpu, machine.virtual) == ("A CPU @ 3 GHz", True)
    assert (machine.n_cpus, machine.n_cores, machine.cpu_quota) == (3, 2, 1.5)
    assert machine.caches == (Cache(1, "Data", 48 << 10, 2), Cache(3, "Unified", 32 << 20, 4))
    assert (machine.memory_bytes, machine.memory_available_bytes) == (16 << 20, 8 << 20)
    assert (machine.huge_pages, machine.governor) == ("madvise", "powersave")


def test_what_is_not_told_is_none(tmp_path: Path) -> None:
    machine = read_machine(tmp_path, {0})
    assert (machine.cpu, machine.virtual, machine.n_cpus, machine.n_cores) == (None, False, 1, None)
    assert (machine.cpu_quota, machine.caches, machine.memory_bytes) == (None, (), None)
    assert (machine.memory_available_bytes, machine.huge_pages, machine.governor) == (None, None, None)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 0.5),
    ],
)
def test_quota_of_both_control_group_versions(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    write(tmp_path, files)
    assert read_machine(tmp_path, {0}).cpu_quota == quota


def test_lists_and_sizes() -> None:
    assert [count_cpus(text) for text in ("0", "0-3", "0,2", "0-1,8-11")] == [1, 4, 2, 6]
    assert [parse_size(text) for text in ("512", "32K", "1M", "2G")] == [512, 32 << 10, 1 << 20, 2 << 30]
    with pytest.raises(ValueError, match="size"):
        parse_size("many")


def test_this_machine_has_cpus() -> None:
    machine = read_machine()
    assert machine.n_cpus >= 1
    assert machine.python.startswith("3.")
