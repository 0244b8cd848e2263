"""Machine facts, read from file trees that the tests write."""

from __future__ import annotations

from pathlib import Path

import pytest

from tritium.backends import cpu
from tritium.bench.machine import Cache, count_cpus, parse_size, read_machine
from tritium.resources import available_memory, cpu_quota, usable_cpus


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


def test_a_group_below_the_root_limits_too(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b",
            "proc/meminfo": "MemAvailable:    8192 kB",
            "sys/fs/cgroup/a/cpu.max": "250000 100000",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000",
            "sys/fs/cgroup/a/memory.max": "3000000",
            "sys/fs/cgroup/a/memory.current": "2500000",
            "sys/fs/cgroup/a/memory.stat": "anon 1400000\ninactive_file 300000\nactive_file 200000\ninactive_anon 7",
            "sys/fs/cgroup/a/b/memory.max": "max",
            "sys/fs/cgroup/a/b/memory.current": "1000",
        },
    )
    assert (cpu_quota(tmp_path), available_memory(tmp_path)) == (2.5, 1_000_000)
    assert [usable_cpus(tmp_path, set(range(n))) for n in (1, 2, 3, 64)] == [1, 2, 2, 2]


def test_groups_of_version_1_have_a_folder_each(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/m\n3:cpu,cpuacct:/c\n0::/",
            "proc/meminfo": "MemAvailable:    8192 kB",
            "sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "5000",
            "sys/fs/cgroup/memory/m/memory.limit_in_bytes": "4000",
            "sys/fs/cgroup/memory/m/memory.usage_in_bytes": "5000",
            "sys/fs/cgroup/memory/m/memory.stat": "total_active_file 1500\nactive_file 9\ntotal_inactive_file 100",
        },
    )
    assert (cpu_quota(tmp_path), available_memory(tmp_path)) == (0.5, 600)
    assert usable_cpus(tmp_path, set(range(8))) == 1


def test_no_limit_is_told(tmp_path: Path) -> None:
    assert (cpu_quota(tmp_path), available_memory(tmp_path), usable_cpus(tmp_path, {3, 5})) == (None, None, 2)
    write(tmp_path, {"proc/self/cgroup": "nonsense\n::\n0::/../..", "proc/meminfo": "MemFree: 1 kB"})
    assert (cpu_quota(tmp_path), available_memory(tmp_path)) == (None, None)


def test_the_default_is_a_thread_for_each_cpu_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu.default_threads() == usable_cpus()
    monkeypatch.setenv("TRITIUM_THREADS", "7")
    assert cpu.default_threads() == 7
