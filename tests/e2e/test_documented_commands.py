"""What the documentation tells the reader to type works as it stands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = ("README.md", *sorted(str(p.relative_to(REPOSITORY)) for p in (REPOSITORY / "docs").rglob("*.md")))
PYTHON = [
    (page, code)
    for page in PAGES
    for code in re.findall(
        r"^```python\n(import .*?)^```", (REPOSITORY / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
]
# Set-up of the checkout itself, which whoever runs this test has done; Arm has tests of its own.
SET_UP = re.compile(r"^(?:make|pip|sudo|apt|qemu-|cmake|export CXX)\b")


def shell(page: str) -> str:
    """All shell of a page, without what sets the checkout up and what a comment in front excuses."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    text = re.sub(r"^<!-- not run: [^\n]+ -->\n```sh\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return "\n".join(line for block in blocks for line in block.splitlines() if not SET_UP.match(line))


# A judge's exit code; where others keep the machine busy, a measured time may show less than a page demands.
LEVEL_NOT_REACHED = 8


def run_all(commands: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """The commands, in a directory of their own with the model, the prompt and the pages that they name."""
    directory.mkdir()
    shutil.copy(REPOSITORY / "src/tritium/data/demo.gguf", directory / "model.gguf")
    (directory / "prompt.txt").write_text("ROMEO:", encoding="utf-8")
    shutil.copytree(REPOSITORY / "docs", directory / "docs")  # some commands write there
    environment = {
        **os.environ,
        "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}",
        "PROMPT": "ROMEO:",
        "NONCE": "0123456789abcdef",
        "TRITIUM_CACHE": str(directory / "cache"),
    }
    tokenize = ["tritium", "tokenize", "-m", "model.gguf", "--json", "ROMEO:"]
    done = subprocess.run(tokenize, cwd=directory, env=environment, capture_output=True, text=True, check=True)
    (directory / "ids.json").write_text(json.dumps(json.loads(done.stdout)["ids"]), encoding="utf-8")
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=directory, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


RUNNABLE = [page for page in PAGES if "tritium " in shell(page)]


def test_there_is_something_to_try() -> None:
    assert {"README.md", "docs/quickstart.md", "docs/troubleshooting.md", "docs/performance-benchmarking.md"} <= set(
        RUNNABLE
    )
    assert PYTHON


@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[page for page, _ in PYTHON])
def test_the_python_examples_run(page: str, code: str, tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


@pytest.mark.parametrize("page", RUNNABLE)
def test_the_commands_run_in_order(page: str, tmp_path: Path) -> None:
    if "jq " in shell(page) and shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    for attempt in range(3):
        result = run_all(shell(page), tmp_path / str(attempt))
        if result.returncode != LEVEL_NOT_REACHED:
            break
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert result.stdout
