"""The gates of a merge: stages run in order, words computed from evidence, reports rendered from words."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tritium.bench.merge import ledger
from tritium.bench.merge.children import run_child
from tritium.bench.merge.matrix import criteria, decide
from tritium.bench.merge.pipeline import Outcome, run_stages
from tritium.bench.merge.report import (
    CONCLUSIONS,
    MOST_TEXT,
    Account,
    check_run,
    evidence_line,
    junit,
    sarif,
    write_reports,
)
from tritium.bench.merge.rules import read_rules
from tritium.bench.merge.stages import PIPELINE, Job, Stage
from tritium.bench.merge.tiers import TIERS, of_junit
from tritium.bench.verdict import Decision, Word
from tritium.errors import NumericsError

RULES = read_rules()
MOMENT = datetime(2026, 1, 31, tzinfo=UTC)
FIGURES: dict[str, dict[str, Any]] = {
    "benchmark": {"prefill_ms": 12.34, "kernels_count": 11, "tokens_per_second": 20.5},
    "verify": {"kernels_all_real": True, "compute_path": "real", "schema_version": "1.0.0"},
    "accuracy": {"accuracy_percent": 99.87},
    "baseline": {
        "ratio": 1.025,
        "baseline": 20.0,
        "differences": [
            {"item": "schema", "before": "1.0.0", "after": "1.0.0", "is_binding": False, "is_equal": True},
            {"item": "kernels", "before": "a", "after": "b", "is_binding": False, "is_equal": False},
        ],
    },
    "latency": {"latency_s": 3.04, "latency_limit_s": 10.0, "latency_margin_percent": 69.6},
}


def never(job: Job, stages: Mapping[str, Stage]) -> Decision:
    raise AssertionError


def outcome(**words: Word) -> Outcome:
    """All stages passed, but for those named."""
    stages = []
    for name, _ in PIPELINE:
        word = words.get(name, "PASS")
        figures = FIGURES.get(name, {}) if word in ("PASS", "ATTENTION") else {}
        stages.append(Stage(name, never, Decision(word, (f"reason of {name}",), figures), 1.5))
    return Outcome("gate", MOMENT, MOMENT, tuple(stages))


def account(folder: Path, result: Outcome) -> Account:
    job = Job(folder, "demo", folder / "raw", RULES)
    return Account(7, job, result, "5a" * 20, None, [("CPU", "a | b")], "local")


@pytest.mark.parametrize(
    ("words", "word", "exit_code", "following"),
    [
        ({}, "PASS", 0, "integrative-performance-finalizer"),
        ({"baseline": "ATTENTION"}, "ATTENTION", 0, "integrative-performance-finalizer"),
        ({"baseline": "INCONCLUSIVE"}, "INCONCLUSIVE", 8, "baseline"),
        ({"baseline": "INCONCLUSIVE", "accuracy": "FAIL"}, "FAIL", 6, "perf-fixer"),
        ({"crossval": "NOT MEASURED", "latency": "NOT MEASURED"}, "PASS", 0, "integrative-performance-finalizer"),
        ({"verify": "PENDING"}, "PENDING", 8, "baseline"),
    ],
)
def test_the_word_is_the_worst_stage_and_names_the_next(
    words: dict[str, Word], word: Word, exit_code: int, following: str
) -> None:
    decision = decide(outcome(**words), RULES)
    assert (decision.word, decision.exit_code, decision.figures["next"]) == (word, exit_code, following)
    assert all(reason.partition(":")[0] in dict(PIPELINE) for reason in decision.reasons)


def test_the_seven_criteria_are_read_from_evidence() -> None:
    assert [row.word for row in criteria(outcome(), RULES)] == ["PASS"] * 7
    no_receipt = criteria(outcome(benchmark="FAIL", verify="PENDING"), RULES)
    assert {row.name: row.word for row in no_receipt}["compute path"] == "PENDING"
    assert no_receipt[-1].word == "FAIL"
    mock = outcome()
    mock.of("verify").decision = Decision("PASS", (), {**FIGURES["verify"], "compute_path": "mock"})
    rows = {row.name: row.word for row in criteria(mock, RULES)}
    assert (rows["compute path"], rows["production readiness"]) == ("FAIL", "FAIL")


def test_a_stage_that_breaks_fails_and_the_others_still_run(tmp_path: Path) -> None:
    def breaks(job: Job, stages: Mapping[str, Stage]) -> Decision:
        raise NumericsError("broken")

    def looks(job: Job, stages: Mapping[str, Stage]) -> Decision:
        return Decision(stages["later"].decision.word, ())

    def passes(job: Job, stages: Mapping[str, Stage]) -> Decision:
        return Decision("PASS", ("fine",))

    heard: list[str] = []
    result = run_stages(
        "gate",
        [("first", breaks), ("second", looks), ("later", passes)],
        Job(tmp_path, "demo", tmp_path / "raw", RULES),
        told=lambda stage: heard.append(stage.name),
    )
    assert [stage.decision.word for stage in result.stages] == ["FAIL", "PENDING", "PASS"]
    assert "broken" in result.stages[0].decision.reasons[0]
    assert heard == ["first", "second", "later"]
    assert result.word == "FAIL"


def test_all_files_are_written_and_say_the_same_twice(tmp_path: Path) -> None:
    folder = tmp_path / "pr-7"
    files, decision = write_reports(account(tmp_path, outcome(memory="NOT MEASURED")), folder)
    assert decision.word == "PASS"
    first = {file.name: file.read_text(encoding="utf-8") for file in files}
    again, _ = write_reports(account(tmp_path, outcome(memory="NOT MEASURED")), folder)
    assert {file.name: file.read_text(encoding="utf-8") for file in again} == first
    assert sorted(first) == sorted(p.name for p in folder.iterdir())
    report = first["PERFORMANCE-VALIDATION-REPORT.md"]
    assert re.findall(r"^## (.*)", report, re.MULTILINE) == [
        "Executive summary", "Performance metrics", "Baseline comparison", "Quantization validation", "Build and test",
        "Impact of the change", "Standards compliance", "Root cause", "Decision logic", "Commands", "Conclusion",
    ]  # fmt: skip
    assert "| CPU | a \\| b |" in report
    assert "| memory | NOT MEASURED |" in report
    assert "| schema | 1.0.0 | 1.0.0 | 0 |" in report
    assert "| kernels | a | b | differs |" in report
    assert "| speed | 20 | 20.5 | +2.5 % |" in report
    assert "| overall | | | PASS |" in report
    assert all(name in first["RUNNER-RECEIPT.md"] for name in first)
    assert f"{len(first)} files." in first["RUNNER-RECEIPT.md"]
    row = ledger.section(first["LEDGER.md"], "gates")
    assert row.count("| benchmarks |") == 1


def test_nothing_says_pass_before_it_has_run(tmp_path: Path) -> None:
    words: dict[str, Word] = {name: "PENDING" for name, _ in PIPELINE}
    files, decision = write_reports(account(tmp_path, outcome(**words)), tmp_path / "pr-7")
    assert decision.word == "PENDING"
    for file in files:
        text = file.read_text(encoding="utf-8")
        legend = "The gate's word is the worst of its stages: FAIL, then INCONCLUSIVE, PENDING, ATTENTION, PASS."
        assert not re.search(r"\bPASS\b|✅", text.replace(legend, "")), file.name


def test_the_evidence_line_has_its_five_parts() -> None:
    assert evidence_line(outcome(), RULES) == (
        "inference:12.3ms-prefill (≤10s SLO: PASS); quantization:99.87% PASS; compute_path:real; kernels:11-registered; "
        "regression:PASS"
    )
    assert "inference:NOT MEASURED" in evidence_line(outcome(benchmark="FAIL"), RULES)


@pytest.mark.parametrize("word", list(CONCLUSIONS))
def test_a_check_run_has_the_shape_that_github_takes(tmp_path: Path, word: Word) -> None:
    result = outcome(baseline=word)
    check = check_run(account(tmp_path, result), decide(result, RULES), "x" * (2 * MOST_TEXT))
    assert (check["status"], check["head_sha"]) == ("completed", "5a" * 20)
    assert check["conclusion"] in ("success", "failure", "neutral")
    assert (check["conclusion"] == "failure") is (word == "FAIL")
    assert set(check["output"]) == {"title", "summary", "text"}
    assert len(check["output"]["text"]) <= MOST_TEXT
    json.dumps(check, allow_nan=False)


def test_junit_and_sarif_tell_what_did_not_pass() -> None:
    result = outcome(accuracy="FAIL", crossval="NOT MEASURED", baseline="ATTENTION")
    suite = ElementTree.fromstring(junit(result).partition("?>")[2])[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("9", "1", "1")
    found = {r["ruleId"]: r["level"] for r in sarif(result)["runs"][0]["results"]}
    assert found == {"accuracy": "error", "crossval": "note", "baseline": "warning"}


def test_counts_of_junit_and_of_nothing(tmp_path: Path) -> None:
    file = tmp_path / "junit.xml"

    def decide_on(text: str) -> Decision:
        file.write_text(text, encoding="utf-8")
        return of_junit([file, file])

    assert decide_on('<testsuites><testsuite tests="5" failures="0" errors="0" skipped="1"/></testsuites>').reasons == (
        "8 of 10 passed, 0 failed, 2 skipped",
    )
    assert decide_on('<testsuite tests="5" failures="0" errors="1" skipped="0"/>').word == "FAIL"
    assert decide_on('<testsuite tests="0"/>').word == "INCONCLUSIVE"


def test_a_program_is_watched(tmp_path: Path) -> None:
    keep = tmp_path / "raw" / "out.txt"
    code = "import os, sys; x = bytearray(50_000_000); print(os.environ['A']); print('wrong', file=sys.stderr); sys.exit(3)"
    done = run_child([sys.executable, "-c", code], keep=keep, environment={"A": "told"}, watches_memory=True)
    assert (done.exit_code, done.out.strip(), done.last_line) == (3, "told", "told")
    assert done.peak_bytes is None or 50_000_000 < done.peak_bytes < 150_000_000
    assert "exit 3 after" in keep.read_text(encoding="utf-8")


def test_the_memory_of_a_program_is_not_that_of_its_parent() -> None:
    held = bytearray(b"x" * 200_000_000)
    done = run_child([sys.executable, "-c", "raise SystemExit(9)"], watches_memory=True)
    assert (done.exit_code, len(held)) == (9, 200_000_000)
    assert done.peak_bytes is None or 1_000_000 < done.peak_bytes < 100_000_000


def test_every_tier_has_checks() -> None:
    checks: dict[str, tuple[tuple[str, Callable[..., Decision]], ...]] = {
        name: rows for name, (_, rows) in TIERS.items()
    }
    assert list(checks) == ["t1", "t2", "t3", "t4", "t5", "t6", "t7"]
    assert all(rows for rows in checks.values())
