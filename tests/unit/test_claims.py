"""Claims of performance in documentation: found, bound to receipts that the judge accepts, equal after rounding."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tritium.bench.claims import check_claims, find_claims, fix
from tritium.bench.quantities import rendered
from tritium.cli import invoke
from tritium.errors import FormatError

DATED = "docs/baselines/2026-01-31"


@pytest.fixture
def project(repository: Path, tmp_path: Path) -> Path:
    """A folder with a dated baseline of one receipt that the judge accepts."""
    folder = tmp_path / DATED
    folder.mkdir(parents=True)
    shutil.copy(repository / "docs/tdd/receipts/cpu_positive_example.json", folder / "cpu.json")
    return tmp_path


def value(project: Path, field: str = "tokens_per_second") -> float:
    return float(json.loads((project / DATED / "cpu.json").read_text(encoding="utf-8"))[field])


def statuses(text: str, project: Path) -> list[tuple[str, str]]:
    """Text and status of each claim of a page."""
    claims = find_claims(Path("page.md"), text)
    check_claims(claims, project)
    return [(claim.text, claim.status) for claim in claims]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It writes 20 tok/s.", ["20 tok/s"]),
        ("Reads 1,234.5 GB/s or 12 345 MB/s.", ["1,234.5 GB/s", "12 345 MB/s"]),
        ("The decode rate is 10–20 tok/s.", ["10–20 tok/s"]),
        ("It is 3× faster.", ["3×"]),
        ("It is 2.5x as fast, and loads in 30 ms with 480 MB resident.", ["2.5x", "30 ms", "480 MB"]),
        ("Speed rose by 4 %.", ["4 %"]),
        ("| op | latency |\n|---|---|\n| head | 72 ms |", ["72 ms"]),
        ("```text\n24 tok/s\n```", ["24 tok/s"]),
        ("Prefill\nof the prompt: 5 ms.", ["5 ms"]),
        ("42 % of the trits are zero.", []),
        ("The file is 1187 MB.", []),
        ("Speed matters. The file is 1187 MB.", []),
        ("Changed × 10, × 1000 of the bandwidth.", []),
        ("`tritium benchmark --tokens 128` takes a model.", []),
        ("See version 1.0.0 of 2026-01-31, decode-2 and #12.", []),
        ("Loads in < 5 minutes.", []),
        ("A test that hangs for 300 s fails; files stay for 30 days.", []),
        ("| x | default |\n|---|---|\n| BITNET_SEED | 0 |\n| traces | µs |\n| y | 7 |", []),
        ("The vocabulary has 128,256 entries, 16x16 tiles, W1.58A8 and 2 T of weights.", []),
        ("<!-- 20 tok/s, once --> Nothing.", []),
    ],
)
def test_what_is_a_claim(text: str, found: list[str]) -> None:
    assert [claim.text for claim in find_claims(Path("page.md"), text)] == found


SPELLINGS = (
    "It decodes 20 {}.",
    "Throughput: **20** {}",
    "Speed is 20\u00a0{}",
    "Speed is 20\u202f{}",
    "Speed is 20&nbsp;{}",
    "Speed is\n20\n{}",
    "> decode `20 {}`",
    "```text\ndecode  20 {}\n```",
    "| speed | x |\n|---|---|\n| ~20 {} | 2B |",
    "- it is fast, 1.2e4 {}",
    "# Decodes 12'345 {}",
    "It decodes 12\u2009345 {}",
    "Speed: 20+ {}",
    "<td>decode 20 {}</td>",
)
UNITS = (
    *(
        "tok/s",
        "tokens/s",
        "tokens per second",
        "token/sec",
        "t/s",
        "TPS",
        "toks/s",
        "Tok/s",
        "tokens a second",
        "tokens / s",
    ),
    *("GB/s", "GB per second", "TB/s", "MiB/sec", "GFLOPS", "GFLOP/s", "TOPS", "GMAC/s"),
    *(
        "ms per token",
        "ms/tok",
        "seconds per token",
        "J/token",
        "mJ per token",
        "ms",
        "milliseconds",
        "seconds",
        "μs",
        "µs",
    ),
    *("×", "x", "times faster", "%", "percent", "MB", "GiB", "W"),
)


@pytest.mark.parametrize("sentence", SPELLINGS)
def test_a_claim_in_any_spelling(sentence: str) -> None:
    for unit in UNITS:
        found = [claim.numbers for claim in find_claims(Path("page.md"), sentence.format(unit))]
        assert len(found) == 1, unit
        assert "".join(c for c in found[0][0] if c.isalnum()) in {"20", "12345", "12e4"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Decode speed (tok/s): 20", ["tok/s): 20"]),
        ("A rate in tok/s of 20.", ["tok/s of 20"]),
        ("<th>tok/s</th><td>20</td> tokens_per_second = 15.3", ["tokens_per_second = 15.3"]),
        ('```json\n{"tokens_per_second": 15.3}\n```', ['tokens_per_second": 15.3']),
        ("A ×3 speedup.", ["×3"]),
        ("It writes twenty tokens per second.", ["twenty tokens per second"]),
        (
            "It is three times faster, twice as fast and takes half the time.",
            ["three times faster", "twice as fast", "half the time"],
        ),
        ("| model | decode tok/s | size MB | note |\n|---|---|---|---|\n| 2B | 20.5 | 1187 | 7 |", ["20.5", "1187"]),
        ("| model | peak MB |\n|---|---|\n| 3B | 1,187 <!-- no --> |\n| 7B | – |", ["1,187"]),
        ("It outperforms the other by 30 %, needs 512 MB of RAM and responds within 3 ms.", ["30 %", "512 MB", "3 ms"]),
    ],
)
def test_claims_that_are_no_number_and_unit(text: str, found: list[str]) -> None:
    claims = [claim.text for claim in find_claims(Path("page.md"), text)]
    assert claims == found


@pytest.mark.parametrize(
    "text", ["123 " * 3000, "1-" * 3000, "tok/s " * 3000, "| " * 3000, "20" + " " * 9000, "9" * 9000]
)
def test_a_page_of_any_text_is_read_in_time_that_grows_with_it(text: str) -> None:
    assert find_claims(Path("page.md"), text) == []


def test_numbers_are_compared_as_they_are_spelled() -> None:
    value = 12345.678
    for like in ("9,999.9", "9 999.9", "9\u202f999.9", "9'999.9", "9_999.9", "9999.9", "1.2e4", "1.23E+4", "9.9k"):
        text = rendered(value, like)
        assert rendered(value, text) == text
    assert [rendered(value, like) for like in ("9,999", "1.2e4", "1.23E+4", "9.9k", "9_999.9")] == [
        *("12,346", "1.2e4", "1.23E+4", "12.3k", "12_345.7")
    ]
    with pytest.raises(FormatError, match="words"):
        rendered(value, "twenty tok/s")


def test_what_is_bound_is_a_claim() -> None:
    assert [c.text for c in find_claims(Path("page.md"), "Tolerance ±15 % <!-- bound: a.toml#b --> of 3 %.")] == [
        "15 %"
    ]


def test_a_comment_that_binds_nothing_is_to_be_corrected(project: Path) -> None:
    bound = f"<!-- bound: {DATED}/cpu.json#tokens_per_second -->"
    assert [status for _, status in statuses(f"It is fast {bound}.", project)] == ["unverified"]
    assert [status for _, status in statuses(f"{bound}\n\n```text\nno number\n```\n", project)] == ["unverified"]


def test_a_claim_knows_its_line() -> None:
    text = "# Title\n\nOne line.\nIt decodes\n7 tok/s.\n\n```text\n\n8 tok/s\n```\n"
    assert [(claim.line, claim.text) for claim in find_claims(Path("page.md"), text)] == [
        (5, "7 tok/s"),
        (9, "8 tok/s"),
    ]


def test_a_bound_claim_equals_its_receipt_after_rounding(project: Path) -> None:
    speed = value(project)
    bound = f"<!-- bound: {DATED}/cpu.json#tokens_per_second -->"
    assert statuses(f"It decodes {speed:.1f} tok/s {bound}.", project) == [(f"{speed:.1f} tok/s", "backed")]
    assert statuses(f"It decodes {speed:,.0f} tok/s {bound}.", project) == [(f"{speed:,.0f} tok/s", "backed")]
    assert statuses(f"It decodes {speed * 1.01:.1f} tok/s {bound}.", project)[0][1] == "wrong"
    assert statuses(f"It decodes {speed:.1f} tok/s.", project)[0][1] == "unverified"


def test_units_are_converted_and_must_fit(project: Path) -> None:
    prefill = value(project, "prefill_ms")
    bound = f"<!-- bound: {DATED}/cpu.json#prefill_ms -->"
    assert statuses(f"Prefill takes {prefill * 1000:.0f} µs {bound}.", project)[0][1] == "backed"
    assert statuses(f"Prefill takes {prefill:.3f} ms {bound}.", project)[0][1] == "backed"
    assert statuses(f"Prefill runs at {prefill:.3f} tok/s {bound}.", project)[0][1] == "wrong"
    resident = f"<!-- bound: {DATED}/cpu.json#evidence.run.peak_rss_bytes -->"
    size = json.loads((project / DATED / "cpu.json").read_text(encoding="utf-8"))["evidence"]["run"]["peak_rss_bytes"]
    assert statuses(f"Memory: {size / 1e6:.0f} MB {resident}", project)[0][1] == "backed"


def test_a_comment_before_a_block_binds_its_claims_in_order(project: Path) -> None:
    speed, prefill = value(project), value(project, "prefill_ms")
    name = f"{DATED}/cpu.json"
    text = (
        f"<!-- bound: {name}#tokens_per_second {name}#prefill_ms speed=E2 -->\n\n"
        f"```text\ndecode {speed:.0f} tok/s\nprefill {prefill:.2f} ms\n```\n"
    )
    assert [status for _, status in statuses(text, project)] == ["backed", "backed"]


def test_a_pattern_is_a_median_and_a_range_takes_two(project: Path) -> None:
    speed = value(project)
    bound = f"<!-- bound: {DATED}/*.json#tokens_per_second -->"
    assert statuses(f"It decodes {speed:.0f} tok/s {bound}.", project)[0][1] == "backed"
    (project / "ci").mkdir()
    (project / "ci/limits.toml").write_text("[cpu]\nlow = 10\nhigh = 20\n", encoding="utf-8")
    text = "The envelope of speed is 10–20 × <!-- bound: ci/limits.toml#cpu.low ci/limits.toml#cpu.high -->."
    assert statuses(text, project) == [("10–20 ×", "policy")]
    assert statuses(text.replace(" ci/limits.toml#cpu.high", ""), project)[0][1] == "wrong"


@pytest.mark.parametrize("place", ["ci/cpu.json", "docs/baselines/cpu.json", "../outside.json"])
def test_evidence_is_a_dated_baseline_of_this_project(project: Path, place: str) -> None:
    target = project / place
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(project / DATED / "cpu.json", target)
    text = f"It decodes {value(project):.1f} tok/s <!-- bound: {place}#tokens_per_second -->."
    assert statuses(text, project)[0][1] == "wrong"


def test_the_judge_has_to_accept_the_receipt_at_the_level(project: Path) -> None:
    speed = value(project)
    text = f"It decodes {speed:.1f} tok/s <!-- bound: {DATED}/cpu.json#tokens_per_second speed=E6 -->."
    assert statuses(text, project)[0][1] == "wrong"
    file = project / DATED / "cpu.json"
    forged = json.loads(file.read_text(encoding="utf-8"))
    forged["tokens_per_second"] = speed * 2
    file.write_text(json.dumps(forged), encoding="utf-8")
    text = f"It decodes {speed * 2:.1f} tok/s <!-- bound: {DATED}/cpu.json#tokens_per_second -->."
    assert statuses(text, project)[0][1] == "wrong"


def test_fix_writes_what_the_evidence_says(project: Path) -> None:
    speed = value(project)
    bound = f"<!-- bound: {DATED}/cpu.json#tokens_per_second -->"
    text = f"First 3 tok/s {bound}, then 1,234.5 tok/s {bound}, unbound 9 tok/s."
    claims = find_claims(Path("page.md"), text)
    check_claims(claims, project)
    assert fix(text, claims) == f"First {speed:.0f} tok/s {bound}, then {speed:,.1f} tok/s {bound}, unbound 9 tok/s."


def test_the_command_refuses_a_false_sentence_and_corrects_it(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    page = project / "README.md"
    page.write_text(f"It decodes 99999.9 tok/s <!-- bound: {DATED}/cpu.json#tokens_per_second -->.\n", encoding="utf-8")
    assert invoke(["docs-audit"]) == 1
    out = capsys.readouterr().out
    assert "README.md:1: '99999.9 tok/s' wrong" in out
    assert f"{value(project):.1f}" in out
    assert invoke(["docs-audit", "--fix", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["claims"]
    assert [(row["line"], row["status"]) for row in rows] == [(1, "backed")]
    assert f"{value(project):.1f} tok/s" in page.read_text(encoding="utf-8")
    page.write_text("It is 3× faster than others.\n", encoding="utf-8")
    assert invoke(["docs-audit", "--fix"]) == 1


def test_what_git_ignores_is_no_documentation(tmp_path: Path) -> None:
    pages = tmp_path / "docs" / "measured"
    pages.mkdir(parents=True)
    (pages / "report.md").write_text("It decodes 24.1 tok/s.\n", encoding="utf-8")
    assert invoke(["docs-audit", "--root", str(tmp_path)]) == 1
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert invoke(["docs-audit", "--root", str(tmp_path)]) == 1
    (tmp_path / ".gitignore").write_text("/docs/measured/\n", encoding="utf-8")
    assert invoke(["docs-audit", "--root", str(tmp_path)]) == 0
    assert invoke(["docs-audit", str(pages / "report.md")]) == 1
