"""Sampling profilers of the system as further sources of flame graphs: whether they can work here, and how to ask them.

They see functions of the native core and of Python where the executor's counters see ops. Nothing is installed.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tritium.bench.flame import Kind, Stack, parse_collapsed
from tritium.errors import UnsupportedError

TOOLS = ("builtin", "perf", "py-spy")
PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
PTRACE = Path("/proc/sys/kernel/yama/ptrace_scope")
RATE = 997
_START_S = 30.0
_PR_SET_PTRACER = 0x59616D61


@dataclass(frozen=True, slots=True)
class Ability:
    """Whether a sampler works here; ``why`` says what was found, ``fix`` what to do about it, None where nothing helps."""

    tool: str
    works: bool
    why: str
    fix: str | None = None


def check(tool: str, paranoid: Path = PARANOID, ptrace: Path = PTRACE, platform: str = sys.platform) -> Ability:
    """Look for the program and the permission, and record for a moment. Errors: UnsupportedError for an unknown tool."""
    if tool not in TOOLS:
        raise UnsupportedError("unknown tool of flame graphs", expected=" or ".join(TOOLS), got=tool)
    if tool == "builtin":
        return Ability(tool, True, "the executor's own counters; no program, no permission")
    if not platform.startswith("linux"):
        return Ability(tool, False, f"sampling is written for Linux; {platform} would need DTrace and an administrator")
    program = shutil.which(tool)
    if program is None:
        package = "sudo apt-get install linux-perf" if tool == "perf" else "pip install py-spy"
        return Ability(tool, False, f"{tool} is not installed", package)
    return _check_perf(program, paranoid) if tool == "perf" else _check_py_spy(program, ptrace)


def _check_perf(program: str, paranoid: Path) -> Ability:
    level = _number(paranoid)
    with tempfile.TemporaryDirectory() as folder:
        trial = [program, "record", "-q", "-o", f"{folder}/trial", "--", "true"]
        error = _failure(trial)
    if error is None:
        return Ability("perf", True, f"{program}; perf_event_paranoid {'unknown' if level is None else level}")
    fix = f"echo 1 | sudo tee {paranoid}" if level is not None and level > 1 else None
    return Ability(
        "perf", False, f"perf_event_paranoid is {'unknown' if level is None else level}; a trial failed: {error}", fix
    )


def _check_py_spy(program: str, ptrace: Path) -> Ability:
    error = _failure([program, "--version"])
    if error is not None:
        return Ability("py-spy", False, f"{program} does not run: {error}")
    scope = _number(ptrace)
    if scope is not None and scope > 1:
        return Ability(
            "py-spy", False, f"ptrace_scope is {scope}: no program may look into another", f"echo 1 | sudo tee {ptrace}"
        )
    return Ability("py-spy", True, f"{program}; ptrace_scope {'absent' if scope is None else scope}")


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _failure(command: list[str]) -> str | None:
    """The first line of what a command that fails says, None for one that does not."""
    try:
        subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace",
            timeout=_START_S,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        said = [line.strip() for line in str(error.output).splitlines() if line.strip()]
        return (said or [f"exit {error.returncode}"])[0][:200]
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)[:200]
    return None


def sample(tool: str, workload: Callable[[], object], seconds: float) -> list[Stack]:
    """Repeat ``workload`` for so long while the sampler looks on; the stacks it saw, weighed in samples.

    Errors: UnsupportedError if the sampler fails or sees nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        watch = _perf if tool == "perf" else _py_spy
        stacks = watch(Path(folder), workload, seconds)
    if not stacks:
        raise UnsupportedError("the sampler saw nothing", where=tool, hint="Sample for longer")
    return stacks


def _repeat(workload: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        workload()


def _perf(folder: Path, workload: Callable[[], object], seconds: float) -> list[Stack]:
    """Attach to this process, switched on only once it listens, so that nothing but the workload is seen."""
    control, answer, data = folder / "control", folder / "answer", folder / "perf.data"
    for fifo in (control, answer):
        os.mkfifo(fifo)
    # Opened for both ways, so that neither side waits for the other to open its end.
    ends = [os.open(fifo, os.O_RDWR) for fifo in (control, answer)]
    command = ["perf", "record", "-q", "-F", str(RATE), "-g", "-D", "-1", f"--control=fifo:{control},{answer}",
               "-o", str(data), "-p", str(os.getpid())]  # fmt: skip
    recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        os.write(ends[0], b"enable\n")
        if not select.select([ends[1]], [], [], _START_S)[0] or recorder.poll() is not None:
            raise UnsupportedError("perf does not start to record", hint="tritium flamegraph --tool builtin")
        _repeat(workload, seconds)
    finally:
        recorder.send_signal(signal.SIGINT)
        recorder.wait(_START_S)
        for end in ends:
            os.close(end)
    script = ["perf", "script", "-i", str(data), "-F", "comm,ip,sym,dso"]
    try:
        text = subprocess.check_output(
            script, stderr=subprocess.DEVNULL, encoding="utf-8", errors="replace", timeout=4 * _START_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UnsupportedError("perf script failed", got=error) from error
    return parse_perf_script(text)


def _py_spy(folder: Path, workload: Callable[[], object], seconds: float) -> list[Stack]:
    """Let py-spy look into this process."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
    path = folder / "stacks"
    command = ["py-spy", "record", "--native", "-f", "raw", "-r", "100", "-d", str(max(round(seconds), 1)),
               "-o", str(path), "-p", str(os.getpid())]  # fmt: skip
    log = folder / "log"
    with log.open("wb") as file:
        watcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
        while watcher.poll() is None:
            workload()
    if watcher.returncode or not path.is_file():
        said = log.read_text(encoding="utf-8", errors="replace").split("\n")
        raise UnsupportedError("py-spy failed", got=next((line for line in said if line.strip()), "no word")[:200])
    return [Stack(s.names, s.ns, kind_of(s.names)) for s in parse_collapsed(path.read_text(encoding="utf-8"), "py-spy")]


def parse_perf_script(text: str) -> list[Stack]:
    """Stacks of ``perf script -F comm,ip,sym,dso``: a line for the program, then its frames from the innermost out."""
    counts: dict[tuple[str, ...], int] = {}
    for record in re.split(r"\n\s*\n", text):
        lines = [line for line in record.splitlines() if line.strip() and not line.startswith("#")]
        if len(lines) < 2:
            continue
        names = [lines[0].strip(), *(_symbol(line) for line in reversed(lines[1:]))]
        key = tuple(name.replace(";", ",") for name in names)
        counts[key] = counts.get(key, 0) + 1
    return [Stack(names, n, kind_of(names)) for names, n in counts.items()]


_SCOPE = re.compile(r"tritium::|\(anonymous namespace\)::")


def _symbol(line: str) -> str:
    """The function of one frame, or the library where it has no name."""
    match = re.match(r"\s*[0-9a-f]+ (.*) \((.*)\)\s*$", line)
    if match is None:
        return "unknown"
    symbol, library = match.groups()
    return (
        f"[{Path(library).name.strip('[]')}]" if symbol == "[unknown]" else _SCOPE.sub("", symbol).partition("+0x")[0]
    )


_PATTERNS: tuple[tuple[str, Kind], ...] = (
    (r"gemv|gemm|linear|i2s", "linear"),
    (r"attention|rope", "attention"),
    (r"rms|norm|quantize", "norm"),
    (r"relu|silu|output_rows", "elementwise"),
    (r"logits|screen|shortlist|select|topk|plane", "head"),
    (r"embed", "embed"),
    (r"^_?Py|\.py:|^\[(lib)?python", "sample"),
)


def kind_of(names: Sequence[str]) -> Kind:
    """What a stack does, as far as the names of its functions tell, the innermost first."""
    for name in reversed(names):
        for pattern, kind in _PATTERNS:
            if re.search(pattern, name):
                return kind
    return "between"
