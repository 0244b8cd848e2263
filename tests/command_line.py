"""Run the command line as a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = [sys.executable, "-c", "from tritium.cli import main; main()"]


def tritium(
    *arguments: str | Path, text: str = "", cwd: Path | None = None, timeout_s: int = 120, **environment: str
) -> subprocess.CompletedProcess[str]:
    """One run with ``text`` on standard input and nothing inherited but what a process needs to start."""
    import os

    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        input=text,
        capture_output=True,
        encoding="utf-8",
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=timeout_s,
        check=False,
    )
