"""Say what this machine offers, what the native core chose, and what to fix."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import tritium
from tritium import env
from tritium.cli import json_option, print_json
from tritium.errors import TritiumError

if TYPE_CHECKING:
    from tritium.backends.tuning import Times
    from tritium.bench.machine import Machine

PROBE_BYTES = 256 << 20
MIN_MEMORY_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that hurts, and what to do about it."""

    what: str
    fix: str


@dataclass(frozen=True, slots=True)
class Native:
    """What the native core says of itself.

    ``status``: "ok", or why an instruction set is not used; ``in_use``: best first, those that TRITIUM_ISA leaves.
    """

    compiler: str
    flags: str
    n_threads: int
    status: dict[str, str]
    in_use: tuple[str, ...]
    forced: str | None


@dataclass(frozen=True, slots=True)
class Kept:
    """Packed weights kept for the next load."""

    folder: str
    n_files: int
    n_bytes: int
    limit_bytes: int


def writable(folder: Path) -> bool:
    """True if files can be made in ``folder``, or if it is missing and can be made."""
    for place in (folder, *folder.parents):
        if place.exists():
            return place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    return False


def problems(machine: Machine, native: Native, cache: Path) -> Iterable[Problem]:
    """What to fix, worst first."""
    memory = machine.memory_available_bytes
    usable = [name for name, status in native.status.items() if status == "ok"]
    for name, status in native.status.items():
        if status in ("self-test failed", "illegal instruction"):
            yield Problem(
                f"{name}: {status}", "Please report it together with this output; another instruction set is used."
            )
    if memory is not None and memory < MIN_MEMORY_BYTES:
        yield Problem(
            f"{memory / 1e9:.1f} GB of memory are available", "Close other programs, or choose a smaller model."
        )
    if not writable(cache):
        yield Problem(f"{cache} is not writable", "Set TRITIUM_CACHE to a folder that is.")
    if native.in_use and native.in_use[0] != usable[0]:
        yield Problem(f"TRITIUM_ISA keeps {usable[0]} from being used", "Unset it for full speed.")
    if machine.cpu_quota is not None and machine.cpu_quota < native.n_threads:
        limit = max(1, int(machine.cpu_quota))
        yield Problem(
            f"{native.n_threads} threads share a quota of {machine.cpu_quota:g} CPUs", f"Set TRITIUM_THREADS={limit}."
        )
    elif native.n_threads > machine.n_cpus:
        yield Problem(f"{native.n_threads} threads on {machine.n_cpus} CPUs", f"Set TRITIUM_THREADS={machine.n_cpus}.")
    if machine.governor not in (None, "performance", "schedutil"):
        yield Problem(f"the CPU governor is {machine.governor}", "sudo cpupower frequency-set --governor performance")
    if machine.huge_pages == "never":
        path = "/sys/kernel/mm/transparent_hugepage/enabled"
        yield Problem("transparent huge pages are off", f"echo madvise | sudo tee {path}")


def _native() -> Native:
    try:
        from tritium.backends import cpu
    except ImportError as error:
        hint = "Install Tritium again, with a C++ compiler, CMake and Ninja at hand"
        raise TritiumError("the native core cannot be loaded", got=error, hint=hint) from error
    compiler, flags, _ = cpu.build_info()
    return Native(compiler, flags, cpu.default_threads(), dict(cpu.isa_status()), cpu.isas(), env.isa())


def _bandwidths(n_threads: int) -> dict[str, float]:
    from tritium.backends import cpu

    return {str(n): cpu.read_bandwidth(n, PROBE_BYTES) for n in sorted({1, n_threads})}


def _kept(cache: Path) -> Kept:
    from tritium.backends import packed

    folder = cache / packed.FOLDER
    return Kept(str(folder), *packed.stored(folder), packed.LIMIT_BYTES)


def _times(n_threads: int) -> dict[str, Times]:
    from tritium.backends import cpu

    return dict(cpu.tuner(n_threads).known)


def _size(n_bytes: int | None) -> str:
    if n_bytes is None:
        return "unknown"
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if n_bytes >= 1 << power:
            return f"{n_bytes / (1 << power):.4g} {unit}"
    return f"{n_bytes} B"


def _lines(
    machine: Machine, native: Native, bandwidths: dict[str, float], cache: Path, kept: Kept, times: Mapping[str, Times]
) -> list[tuple[str, str]]:
    from tritium.backends.tuning import described

    layouts = described(times)
    why = "forced by TRITIUM_ISA" if native.forced else "the best that passed its self-test"
    caches = [f"L{c.level} {c.kind.lower()} {_size(c.size_bytes)} for {c.n_cpus}" for c in machine.caches]
    cores = "unknown" if machine.n_cores is None else str(machine.n_cores)
    return [
        ("version", f"tritium {tritium.__version__}, Python {machine.python}"),
        ("build", f"{native.compiler}, {native.flags}"),
        ("system", f"{machine.os} {machine.kernel}, {machine.architecture}" + (", virtual" if machine.virtual else "")),
        ("processor", machine.cpu or "unknown"),
        (
            "CPUs",
            f"{machine.n_cpus} on {cores} cores" + (f", quota {machine.cpu_quota:g}" if machine.cpu_quota else ""),
        ),
        ("instructions", f"{native.in_use[0]}, {why}"),
        *[("", f"{name}: {status}") for name, status in native.status.items()],
        ("threads", str(native.n_threads)),
        ("caches", ", ".join(caches) or "unknown"),
        ("memory", f"{_size(machine.memory_bytes)}, {_size(machine.memory_available_bytes)} available"),
        ("read bandwidth", ", ".join(f"{speed:.1f} GB/s with {n} threads" for n, speed in bandwidths.items())),
        ("cache folder", f"{cache}" + ("" if writable(cache) else ", not writable")),
        ("packed weights", f"{kept.n_files} files, {_size(kept.n_bytes)} of at most {_size(kept.limit_bytes)}"),
        ("", f"rm -r {shlex.quote(kept.folder)} to clear, TRITIUM_WEIGHT_CACHE=0 to keep none"),
        ("weight layouts", next(layouts, "nothing timed yet")),
        *[("", line) for line in layouts],
        ("huge pages", machine.huge_pages or "unknown"),
        ("governor", machine.governor or "unknown"),
    ]


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Say what this machine offers, what the native core chose and why, and what to fix.

    The read bandwidth is the median of several passes over a buffer larger than the caches of most machines, with one
    thread and with the default number of threads. It is the limit of decoding.
    """
    from tritium.bench.machine import read_machine

    machine, native, cache = read_machine(), _native(), env.cache_folder()
    bandwidths, kept, times = _bandwidths(native.n_threads), _kept(cache), _times(native.n_threads)
    found = list(problems(machine, native, cache))
    if as_json:
        document: dict[str, Any] = {
            "version": tritium.__version__,
            "machine": asdict(machine),
            "native": asdict(native),
            "read_bandwidth_gb_per_s": bandwidths,
            "cache_folder": {"path": str(cache), "writable": writable(cache)},
            "packed_weights": asdict(kept),
            "weight_layout_ns": times,
            "problems": [asdict(problem) for problem in found],
        }
        print_json(document)
        return
    for name, text in _lines(machine, native, bandwidths, cache, kept, times):
        click.echo(f"{name:16}{text}")
    click.echo()
    for problem in found:
        click.echo(f"To fix: {problem.what}. {problem.fix}")
    if not found:
        click.echo("Nothing to fix.")
