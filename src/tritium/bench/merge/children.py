"""Programs that a gate runs: their output as it came, their time and their memory."""

from __future__ import annotations

import os
import subprocess
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


@dataclass(frozen=True, slots=True)
class Child:
    """A program that has ended. ``peak_bytes``: the most memory that it held, None where the system does not tell."""

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
) -> Child:
    """Run a program to its end; its raw output is kept in the file ``keep``. Errors: OSError if it cannot be started."""
    shown = " ".join(command).replace(" ".join((command[0], *PROGRAM)), "tritium")
    given = env.for_child(environment) if environment else None
    with tempfile.TemporaryFile() as out_file, tempfile.TemporaryFile() as log_file:
        start = time.perf_counter()
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=out_file, stderr=log_file, cwd=cwd, env=given
        )
        peak = _wait(process)
        seconds = time.perf_counter() - start
        out, log = (_text(file) for file in (out_file, log_file))
    if keep is not None:
        keep.parent.mkdir(parents=True, exist_ok=True)
        keep.write_text(f"$ {shown}\n{out}{log}exit {process.returncode} after {seconds:.2f} s\n", encoding="utf-8")
    return Child(shown, process.returncode, out, log, seconds, peak)


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    """Wait for the end; the peak of the program's own memory, which only the call that waits learns."""
    try:
        if not hasattr(os, "wait4"):
            process.wait()
            return None
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return int(usage.ru_maxrss) * MAXRSS_UNIT


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
