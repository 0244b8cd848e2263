"""Where something was measured: the machine, the build of the native core, and the source that it came from."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import tritium
from tritium.backends import cpu
from tritium.bench.machine import Machine, read_machine
from tritium.source import Source, read_source


@dataclass(frozen=True, slots=True)
class Host:
    """A fingerprint. ``isas`` are in use, best first; ``source`` is None where the package is in no git checkout."""

    version: str
    uname: str
    machine: Machine
    compiler: str
    compiler_flags: str
    isas: tuple[str, ...]
    source: Source | None


def fingerprint() -> Host:
    """Everything that the system tells about this place."""
    compiler, flags, _ = cpu.build_info()
    name = platform.uname()
    return Host(
        version=tritium.__version__,
        uname=f"{name.system} {name.release} {name.version} {name.machine}",
        machine=read_machine(),
        compiler=compiler,
        compiler_flags=flags,
        isas=cpu.isas(),
        source=read_source(),
    )


def rows(host: Host) -> list[tuple[str, str]]:
    """The fingerprint as names and texts; what the system does not tell says so."""
    m, source = host.machine, host.source
    caches = ", ".join(f"L{c.level} {c.kind.lower()} {c.size_bytes >> 10} KiB for {c.n_cpus}" for c in m.caches)
    where = "no git checkout"
    if source is not None:
        branch = "" if source.branch is None else f"{source.branch}, "
        where = f"{source.commit} ({branch}{'with changes of its own' if source.is_dirty else 'clean'})"
    quota = f", quota {m.cpu_quota:g}" if m.cpu_quota else ""
    memory = "unknown" if m.memory_bytes is None else f"{m.memory_bytes / (1 << 30):.1f} GiB"
    return [
        ("CPU", (m.cpu or "unknown") + (", virtual" if m.virtual else "")),
        ("CPUs", f"{m.n_cpus} on {m.n_cores or 'unknown'} cores{quota}"),
        ("caches", caches or "unknown"),
        ("instruction sets", f"{host.isas[0]} in use; {', '.join(host.isas)} run here"),
        ("memory", memory),
        ("kernel", host.uname),
        ("Python", m.python),
        ("compiler", host.compiler),
        ("compiler flags", host.compiler_flags),
        ("huge pages, governor", f"{m.huge_pages or 'unknown'}, {m.governor or 'unknown'}"),
        ("version", f"tritium {host.version}"),
        ("commit", where),
    ]
