"""Baselines: what makes one, what reading one checks, what it is held against."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from receipt_forgery import bare, retell_ids
from receipt_history import START, commit_of, retold, write, write_session
from tritium.bench.baseline import (
    Release,
    archive,
    collect,
    is_set,
    judge_receipts,
    promote,
    read_release,
    read_set,
    refusal,
    write_set,
)
from tritium.bench.figures import Sample, differences, judge_exact, key_of, read_sample, read_samples
from tritium.bench.merge import stages
from tritium.bench.merge.rules import read_rules
from tritium.bench.merge.stages import Job
from tritium.cli import invoke
from tritium.errors import FormatError, GateError

PARITY = {"status": "NOT MEASURED", "backend": None}
MOMENT = datetime(2026, 2, 1, tzinfo=UTC)


def session(folder: Path, number: int = 0, slowdown: float = 1.0, n: int = 5) -> list[Sample]:
    write_session(folder, number, slowdown, random.Random(number), n=n)
    return read_samples([folder])


def kept(folder: Path, number: int = 0, slowdown: float = 1.0) -> Path:
    """A set on disk."""
    samples = session(folder / f"receipts{number}", number, slowdown)
    (document,) = collect(samples, PARITY, MOMENT)
    return write_set(document, samples, folder / "baselines")


def test_five_receipts_make_a_set(tmp_path: Path) -> None:
    path = kept(tmp_path)
    baseline = read_set(path)
    assert path.parent.name == "2026-02-01"
    assert len(baseline.samples) == 5
    assert baseline.document["commit"] == commit_of(0)
    assert baseline.key.slug.startswith("cpu-avx512vnni-2t-")
    parity = baseline.document["parity"]
    assert parity["output_sha256"] == baseline.samples[0].receipt["evidence"]["run"]["output_sha256"]
    speed = baseline.document["performance"]["tokens_per_second"]
    assert speed["low"] <= speed["median"] <= speed["high"]
    with pytest.raises(GateError, match="there already"):
        write_set(baseline.document, baseline.samples, tmp_path / "baselines")


def test_four_are_too_few(tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"too few receipts.*expected 5 or more.*got 4"):
        collect(session(tmp_path, n=4), PARITY, MOMENT)


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda r: r["evidence"]["build"].update(dirty=True), "dirty tree"),
        (lambda r: r["evidence"]["build"].pop("commit"), "does not name the commit"),
        (lambda r: r.update(tokens_per_second=r["tokens_per_second"] * 1.2), "rejected by decode_rate"),
        (lambda r: r.update(deterministic=False), "rejected by|not repeated"),
        (lambda r: r.update(compute_path="mock"), "rejected by"),
    ],
)
def test_what_makes_no_baseline(tmp_path: Path, edit: Any, why: str) -> None:
    receipt = retold(1.0, START, commit_of(0))
    edit(receipt)
    sample = read_sample(write(receipt, tmp_path / "a.json"))
    found = refusal(sample)
    assert found is not None
    with pytest.raises(GateError, match=why):
        collect([sample] * 5, PARITY, MOMENT)


def test_a_bare_receipt_makes_no_baseline(tmp_path: Path) -> None:
    sample = read_sample(write(bare(), tmp_path / "a.json"))
    assert sample.problem is not None
    assert key_of(sample.receipt) is None


def test_one_run_five_times_is_one(tmp_path: Path) -> None:
    sample = read_sample(write(retold(1.0, START, commit_of(0)), tmp_path / "a.json"))
    with pytest.raises(GateError, match="two receipts of one run"):
        collect([sample] * 5, PARITY, MOMENT)


def test_other_output_is_not_the_same_baseline(tmp_path: Path) -> None:
    samples = session(tmp_path)
    receipt = json.loads(json.dumps(samples[2].receipt))
    receipt["evidence"]["run"]["token_ids"][5] ^= 1
    retell_ids(receipt)
    other = read_sample(write(receipt, tmp_path / "other" / "a.json"))
    assert other.problem is None
    with pytest.raises(GateError, match="differ in output"):
        collect([*samples[:2], other, *samples[3:]], PARITY, MOMENT)
    assert judge_exact(samples[0].receipt, receipt).word == "FAIL"
    assert judge_exact(samples[0].receipt, samples[1].receipt).word == "PASS"
    assert all(d.is_equal for d in differences(samples[0].receipt, samples[1].receipt))


def test_receipts_that_scatter_make_no_baseline(tmp_path: Path) -> None:
    factors = (1.0, 1.2, 0.8, 1.25, 0.7)
    paths = [write(retold(f, START, commit_of(0)), tmp_path / f"{i}.json") for i, f in enumerate(factors)]
    with pytest.raises(GateError, match="scatter too much"):
        collect(read_samples(paths), PARITY, MOMENT)


def test_two_builds_of_a_commit_are_no_set(tmp_path: Path) -> None:
    samples = session(tmp_path)
    receipt = json.loads(json.dumps(samples[2].receipt))
    receipt["evidence"]["build"]["compiler"] = "another 1.0"
    other = read_sample(write(receipt, tmp_path / "other" / "a.json"))
    with pytest.raises(GateError, match="different builds"):
        collect([*samples[:2], other, *samples[3:]], PARITY, MOMENT)


def test_two_commits_are_two_sets(tmp_path: Path) -> None:
    session(tmp_path, 0)
    assert len(collect(session(tmp_path, 1), PARITY, MOMENT)) == 2


@pytest.mark.parametrize("edit", ["figure", "receipt", "kind", "missing"])
def test_a_set_that_was_edited_is_refused(tmp_path: Path, edit: str) -> None:
    path = kept(tmp_path)
    document = json.loads(path.read_text(encoding="utf-8"))
    receipt = path.with_suffix("") / "03.json"
    expected: type[Exception] = GateError
    if edit == "figure":
        document["performance"]["tokens_per_second"]["median"] *= 1.01
    elif edit == "receipt":
        write(retold(0.9, START, commit_of(0)), receipt)
    elif edit == "kind":
        document["kind"] = "receipt"
        expected = FormatError
    else:
        receipt.unlink()
        expected = FileNotFoundError
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(expected):
        read_set(path)


def test_the_archive_is_dated_in_both_spellings(tmp_path: Path) -> None:
    path = kept(tmp_path)
    folder = tmp_path / "baselines"
    old = write(bare(), folder / "20251015-cpu.json")
    write(bare(), folder / "README.json")
    assert list(archive(folder)) == [old, path]
    assert [is_set(p) for p in archive(folder)] == [False, True]


def test_the_historic_release_file(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(
        '{"cpu": {"bitnet_i2s_cpu": {"tok_s": 38.0, "rss_mb": 480}}, "metadata": {"updated": "2025-10-15"}}'
    )
    (entry,) = read_release(path)
    assert (entry.backend, entry.name, entry.tok_s, entry.rss_mb, entry.set_path) == (
        "cpu", "bitnet_i2s_cpu", 38.0, 480, None,
    )  # fmt: skip
    samples = session(tmp_path / "receipts", n=1)
    assert judge_receipts(samples, [], [entry], "classic").word == "ATTENTION"
    assert judge_receipts(samples, [], [entry], "ratchet").word == "INCONCLUSIVE"
    for broken in ('{"cpu": {"a": {"tok_s": "38"}}}', '{"cpu": [1]}', "[]"):
        path.write_text(broken)
        with pytest.raises(FormatError, match="release baselines"):
            read_release(path)


@pytest.mark.parametrize("nothing", ["0.0", "null"])
def test_a_released_zero_is_inconclusive(tmp_path: Path, nothing: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(f'{{"cpu": {{"a": {{"tok_s": {nothing}, "rss_mb": 480}}}}}}')
    assert judge_receipts(session(tmp_path / "r", n=1), [], read_release(path), "classic").word == "INCONCLUSIVE"


def test_receipts_against_their_baseline(tmp_path: Path) -> None:
    baseline = read_set(kept(tmp_path))

    def word(number: int, slowdown: float) -> str:
        return judge_receipts(session(tmp_path / f"r{number}", number, slowdown), [baseline], [], "ratchet").word

    assert word(1, 1.01) == "PASS"
    assert word(2, 1.08) == "INCONCLUSIVE"
    assert word(3, 1.3) == "FAIL"
    assert word(4, 0.8) == "ATTENTION"
    other = write(retold(1.0, START, commit_of(5), cpu="Another CPU"), tmp_path / "other.json")
    assert judge_receipts([read_sample(other)], [baseline], [], "ratchet").word == "INCONCLUSIVE"
    bad = retold(1.0, START, commit_of(5))
    bad["tokens_per_second"] = 0.0
    assert judge_receipts([read_sample(write(bad, other))], [baseline], [], "ratchet").word == "FAIL"


def test_the_release_only_goes_up(tmp_path: Path) -> None:
    release = tmp_path / "ci" / "baseline.json"
    first, slower, faster, leap = (
        read_set(kept(tmp_path / str(i), i, slowdown)) for i, slowdown in enumerate((1.0, 1.03, 0.96, 0.7))
    )

    def promoted(baseline: Any, reason: str | None = None) -> str:
        return promote(baseline, release, reason=reason, moment=MOMENT).word

    assert promoted(first) == "PASS"
    text = release.read_text(encoding="utf-8")
    assert promoted(slower) == "FAIL"
    assert promoted(leap) == "ATTENTION"
    assert release.read_text(encoding="utf-8") == text
    assert promoted(faster) == "PASS"
    (entry,) = read_release(release)
    assert entry.tok_s == faster.document["performance"]["tokens_per_second"]["median"]
    assert promoted(slower, "the safer kernel") == "PASS"
    document = json.loads(release.read_text(encoding="utf-8"))
    assert document["cpu"][entry.name]["reason"] == "the safer kernel"
    assert document["metadata"]["updated"] == "2026-02-01T00:00:00Z"


def test_the_gate_compares_fact_by_fact_with_the_set_that_a_release_names(tmp_path: Path) -> None:
    path = kept(tmp_path)
    release = tmp_path / "release.json"
    promote(read_set(path), release, reason=None, moment=MOMENT)
    job = Job(tmp_path, "demo", tmp_path / "raw", read_rules(), base=release)
    assert stages.baseline(job, {}).word == "PENDING"
    session(tmp_path / "raw", 1, 1.3, n=1)
    next((tmp_path / "raw").rglob("*.json")).rename(job.receipt)
    decision = stages.baseline(job, {})
    assert decision.word == "FAIL"
    assert decision.figures["ratio"] < 0.95
    rows = {row["item"]: row["is_equal"] for row in decision.figures["differences"]}
    assert rows["schema"]
    assert rows["kernels"]
    assert rows["output"]
    document = json.loads(release.read_text(encoding="utf-8"))
    for entry in document["cpu"].values():
        del entry["set"]
    release.write_text(json.dumps(document), encoding="utf-8")
    assert "differences" not in stages.baseline(job, {}).figures


def test_what_lacks_evidence_is_inconclusive_and_what_is_wrong_fails(tmp_path: Path) -> None:
    old, wrong = bare(), {**bare(), "kernels": ["fp32_matmul"]}
    entries = [Release("cpu", "bitnet_i2s_cpu", 38.0, 480, None, None)]
    for receipt, word in ((old, "INCONCLUSIVE"), (wrong, "FAIL")):
        sample = read_sample(write(receipt, tmp_path / "receipt.json"))
        assert judge_receipts([sample], [], entries, "classic").word == word


@pytest.mark.parametrize(
    ("slowdown", "cpu", "code", "word"),
    [
        (1.0, None, 0, "PASS"),
        (1.3, None, 1, "FAIL"),
        (1 / 1.3, None, 0, "ATTENTION"),
        (1.0, "Other CPU", 8, "INCONCLUSIVE"),
    ],
)
def test_a_receipt_is_judged_against_a_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], slowdown: float, cpu: str | None, code: int, word: str
) -> None:
    place = kept(tmp_path)
    receipt = write(retold(slowdown, START, commit_of(3), cpu=cpu), tmp_path / "now.json")
    assert invoke(["verify-receipt", str(receipt), "--baseline", str(place), "--require", "speed=E3", "--json"]) == code
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [c["value"].split(":")[0] for c in checks if c["id"] == "baseline"] == [word]
    assert invoke(["verify-receipt", str(receipt), "--baseline", str(tmp_path / "none.json")]) == 3
