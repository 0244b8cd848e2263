"""The gate of benchmarks as a process: exit codes, files and their shapes, the ledger, the summary."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from command_line import tritium
from tritium.bench.merge import stages
from tritium.bench.verdict import Decision
from tritium.cli import invoke

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["build", "benchmark", "verify", "baseline", "accuracy", "latency", "memory", "simd", "crossval"]
WORDS = {"PASS", "FAIL", "ATTENTION", "INCONCLUSIVE", "NOT MEASURED", "PENDING"}
EXIT_CODES = {"success": 0, "failure": 6, "neutral": 8}
FILES = [
    *("BENCHMARK-GATE-VALIDATION.md", "LEDGER.md", "PERFORMANCE-VALIDATION-REPORT.md", "RUNNER-RECEIPT.md"),
    *("gate-benchmarks.json", "junit.xml", "results.sarif"),
]


def gate(folder: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The gate of pull request 7 in a folder, with little work, but no speed of one round: a busy machine may turn it."""
    few = ("--tokens", "64", "--rounds", "3", "--threads", "1")
    return tritium("gate", "benchmarks", "--pr", "7", *few, *arguments, cwd=folder, **environment)


def check_files(folder: Path, exit_code: int) -> dict[str, Any]:
    """The check run in a folder of reports, after a look at all files."""
    assert sorted(path.name for path in folder.iterdir()) == FILES
    check: dict[str, Any] = json.loads((folder / "gate-benchmarks.json").read_text(encoding="utf-8"))
    assert (check["name"], check["status"]) == ("integrative:gate:benchmarks", "completed")
    assert EXIT_CODES[check["conclusion"]] == exit_code
    assert set(check["output"]) == {"title", "summary", "text"}
    assert check["output"]["title"] == f"Benchmarks: {check['decision']['verdict']}"
    assert 0 < len(check["output"]["text"]) <= 65_535
    assert list(check["validation"]) == STAGES
    assert {stage["verdict"] for stage in check["validation"].values()} <= WORDS
    assert len(check["criteria"]) == 7
    check_reports_of_tools(folder, check["validation"])
    return check


def check_reports_of_tools(folder: Path, stages: Mapping[str, Any]) -> None:
    """JUnit and SARIF name every stage, and tell what did not pass."""
    words = {name: stage["verdict"] for name, stage in stages.items()}
    cases = ElementTree.parse(folder / "junit.xml").getroot().findall("testsuite/testcase")
    assert [case.get("name") for case in cases] == STAGES
    failed = {case.get("name") for case in cases if case.find("failure") is not None}
    assert failed == {name for name, word in words.items() if word == "FAIL"}
    sarif = json.loads((folder / "results.sarif").read_text(encoding="utf-8"))
    assert sarif["version"] == "2.1.0"
    results = {r["ruleId"]: r["message"]["text"].partition(":")[0] for r in sarif["runs"][0]["results"]}
    assert results == {name: word for name, word in words.items() if word != "PASS"}


def git(folder: Path, *arguments: str) -> str:
    who = [
        "-c",
        "user.name=A",
        "-c",
        "user.email=a@a.example",
        "-c",
        "commit.gpgsign=false",
        "-c",
        "init.defaultBranch=main",
    ]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, encoding="utf-8")
    return done.stdout.strip()


@pytest.fixture
def change(tmp_path: Path) -> Path:
    """A repository of one commit with a model in it."""
    shutil.copy(ROOT / "src/tritium/data/demo.gguf", tmp_path / "модель of two words.gguf")
    git(tmp_path, "init", "-q")
    (tmp_path / "page.md").write_text("one\ntwo\n", encoding="utf-8")
    git(tmp_path, "add", "page.md")
    git(tmp_path, "commit", "-qm", "one")
    return tmp_path


def release_of(folder: Path, tok_s: float) -> Path:
    """A release file in its historic form, whose one entry has no key."""
    rows = {"cpu": {"bitnet_i2s_cpu": {"tok_s": tok_s, "rss_mb": 480}}, "metadata": {"updated": "2025-10-15"}}
    (folder / "release.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "release.json"


def test_a_change_without_a_baseline(change: Path) -> None:
    summary, folder = change / "summary.md", change / "ci/receipts/pr-7"
    summary.write_text("Before.\n", encoding="utf-8")
    model = change / "модель of two words.gguf"
    judged = gate(change, "--model", model, "--json", GITHUB_STEP_SUMMARY=str(summary))
    assert judged.returncode == 8, judged.stderr
    check = check_files(folder, 8)
    assert json.loads(judged.stdout) == check
    assert check["head_sha"] == git(change, "rev-parse", "HEAD")
    words = {name: stage["verdict"] for name, stage in check["validation"].items()}
    assert (words["benchmark"], words["accuracy"], words["simd"]) == ("PASS", "PASS", "PASS")
    assert (words["build"], words["baseline"], words["latency"]) == ("NOT MEASURED", "INCONCLUSIVE", "NOT MEASURED")
    assert check["metrics"]["tokens_generated"] == 64
    report = (folder / "PERFORMANCE-VALIDATION-REPORT.md").read_text(encoding="utf-8")
    assert summary.read_text(encoding="utf-8") == f"Before.\n{report}"
    receipt = json.loads((change / "build/gates/benchmarks/inference.json").read_text(encoding="utf-8"))
    assert receipt["tokens_per_second"] == check["metrics"]["tokens_per_second"]


def test_a_change_against_releases_of_old(
    change: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 6 and 0; the ledger keeps other people's words and counts what happened. Only what judges a given receipt runs."""

    def given(job: stages.Job, _: object) -> Decision:
        shutil.copy(ROOT / "docs/tdd/receipts/cpu_positive_example.json", job.receipt)
        return Decision("PASS", ("given",), {"tokens_per_second": stages.read_receipt(job)["tokens_per_second"]})

    run_here = {"benchmark": given, "verify": stages.verify, "baseline": stages.baseline}
    absent = Decision("NOT MEASURED", ("left out",))
    stages_left = tuple((name, run_here.get(name, lambda *_: absent)) for name, _ in stages.PIPELINE)
    monkeypatch.setattr(stages, "PIPELINE", stages_left)
    monkeypatch.chdir(change)
    folder = change / "ci/receipts/pr-7"
    for tok_s, exit_code, word in ((1e9, 6, "FAIL"), (1.0, 0, "ATTENTION"), (1.0, 0, "ATTENTION")):
        code = invoke(["gate", "benchmarks", "--pr", "7", "--tokens", "64", "--base", str(release_of(change, tok_s))])
        shown = capsys.readouterr()
        assert code == exit_code, shown.err
        assert check_files(folder, exit_code)["decision"]["verdict"] == word
        assert f"baseline        {word}" in shown.out
        ledger = folder / "LEDGER.md"
        text = ledger.read_text(encoding="utf-8")
        assert (text.count("| benchmarks |"), text.count(f"| benchmarks | {word} |")) == (1, 1)
        ledger.write_text(text.replace("\n## Hop log", "Ann: fine.\n\n## Hop log", 1), encoding="utf-8")
    assert text.count("Ann: fine.") == 2
    hops = [line for line in text.splitlines() if "**local** →" in line]
    assert [(line[0], "FAIL" in line) for line in hops] == [("1", True), ("2", False)]


@pytest.mark.nightly
def test_the_whole_gate_on_this_source_tree(tmp_path: Path) -> None:
    """With the build; its warnings are ATTENTION, and the code has none."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    judged = tritium("gate", "benchmarks", "--pr", "7", "--output", tmp_path, cwd=ROOT, timeout_s=900)
    check = check_files(tmp_path, judged.returncode)
    words = {name: stage["verdict"] for name, stage in check["validation"].items()}
    assert {words[name] for name in ("build", "benchmark", "verify", "accuracy", "memory", "simd")} == {"PASS"}
    assert (check["metrics"]["warnings"], check["metrics"]["errors"]) == (0, 0)
