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
    shutil.copy(REPOSITORY / "src/tritium/data/demo.gguf", tmp_path / "model.gguf")
    (tmp_path / "prompt.txt").write_text("ROMEO:", encoding="utf-8")
    shutil.copytree(REPOSITORY / "docs", tmp_path / "docs")  # some commands write there
    environment = {
        **os.environ,
        "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}",
        "PROMPT": "ROMEO:",
        "NONCE": "0123456789abcdef",
        "TRITIUM_CACHE": str(tmp_path / "cache"),
    }
    tokenize = ["tritium", "tokenize", "-m", "model.gguf", "--json", "ROMEO:"]
    done = subprocess.run(tokenize, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    (tmp_path / "ids.json").write_text(json.dumps(json.loads(done.stdout)["ids"]), encoding="utf-8")
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", shell(page)],
        cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout
