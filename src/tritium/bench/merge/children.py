"""Programs that a gate runs: their output as it came, their time and their memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tritium import env
from tritium.resources import MAXRSS_UNIT

PROGRAM = ("-m", "tritium")
"""Arguments of a Python that make it this package's command line."""
_WATCH = """\
import os, signal, sys
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
_, status, usage = os.wait4(child, 0)
open(sys.argv[1], "w").write(f"{usage.ru_maxrss} {os.waitstatus_to_exitcode(status)}")
"""
"""A program's peak begins with the memory of the one that starts it: where the peak matters, this small one stands between."""


@dataclass(frozen=True, slots=True)
class Child:
    """A program that has ended. ``peak_bytes``: the most memory that it held, None unless asked for and told by the system."""

    command: str
    exit_code: int
    out: str
    log: str
    seconds: float
    peak_bytes: int | None

    @property
    def last_line(self) -> str:
        """What it said last, for a reason in one line."""
        lines = [line for line in (self.log + "\n" + self.out).splitlines() if line.strip()]
        return lines[-1].strip() if lines else "it said nothing"


def run_child(
    command: Sequence[str],
    *,
    keep: Path | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    watches_memory: bool = False,
) -> Child:
    """Run a program to its end; its raw output is kept in the file ``keep``. Errors: OSError if it cannot be started."""
    shown = " ".join(command).replace(" ".join((command[0], *PROGRAM)), "tritium")
    given = env.for_child(environment) if environment else None
    watched = watches_memory and hasattr(os, "wait4")
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryFile() as out_file,
        tempfile.TemporaryFile() as log_file,
    ):
        note = Path(folder) / "watch"
        between = [sys.executable, "-I", "-S", "-c", _WATCH, str(note)] if watched else []
        start = time.perf_counter()
        process = subprocess.Popen(
            [*between, *command], stdin=subprocess.DEVNULL, stdout=out_file, stderr=log_file, cwd=cwd, env=given
        )  # fmt: skip
        exit_code = _wait(process)
        seconds = time.perf_counter() - start
        peak = None
        if watched and exit_code == 0:
            kilobytes, exit_code = map(int, note.read_text().split())
            peak = kilobytes * MAXRSS_UNIT
        out, log = (_text(file) for file in (out_file, log_file))
    if keep is not None:
        keep.parent.mkdir(parents=True, exist_ok=True)
        keep.write_text(f"$ {shown}\n{out}{log}exit {exit_code} after {seconds:.2f} s\n", encoding="utf-8")
    return Child(shown, exit_code, out, log, seconds, peak)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end, and end what runs where the wait is broken off."""
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
