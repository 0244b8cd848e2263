"""What the README tells the reader to type works as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
SHELL = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
COMMANDS = [line for line in SHELL if line.startswith("tritium ") and "model.gguf" not in line]


def test_there_is_something_to_try() -> None:
    assert len(PYTHON) == 1
    assert len(COMMANDS) >= 3


def test_the_python_example_runs() -> None:
    result = subprocess.run([sys.executable, "-c", PYTHON[0]], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout) > 100


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_run(line: str) -> None:
    name, *arguments = shlex.split(line, comments=True)
    program = Path(sysconfig.get_path("scripts")) / name
    result = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout
