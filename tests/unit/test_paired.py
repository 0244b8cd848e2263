"""Rounds of two builds: what is run, in which order, and what their receipts decide."""

from __future__ import annotations

import random
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from receipt_history import START, commit_of, retold, write
from tritium.bench.builds import Build, find_build, installed
from tritium.bench.figures import Sample, read_sample
from tritium.bench.paired import ARMS, Workload, judge_samples, run_rounds
from tritium.errors import UnsupportedError

WORKLOAD = Workload("demo", "ROMEO:", 48, 2, 2)


def rounds(
    folder: Path, slowdown: float, *, n: int = 10, noise: float = 0.006, edit: Any = None
) -> dict[str, list[Sample]]:
    """Receipts as a job writes them: three a round, each a minute after the one before."""
    rng = random.Random(5)
    samples: dict[str, list[Sample]] = {arm: [] for arm in ARMS}
    for done in range(n):
        for i, arm in enumerate(ARMS if done % 2 == 0 else reversed(ARMS)):
            factor = (1 + slowdown if arm == "after" else 1.0) * (1 + rng.gauss(0, noise))
            receipt = retold(factor, START + timedelta(minutes=3 * done + i), commit_of(arm == "after"))
            if edit is not None and arm == "after":
                edit(receipt)
            samples[arm].append(read_sample(write(receipt, folder / arm / f"{done:03d}.json")))
    return samples


def test_ten_pairs_decide(tmp_path: Path) -> None:
    slower = rounds(tmp_path / "a", 0.04)
    decision = judge_samples(slower, "pairs", "decode")
    assert (decision.word, decision.exit_code) == ("FAIL", 6)
    assert decision.figures["n_pairs"] == 10
    assert judge_samples(slower, "pairs", "cpu").word == "FAIL"
    assert judge_samples(slower, "classic", "decode").word == "PASS"
    assert judge_samples(slower, "ratchet", "decode").word == "PASS"
    same = {"before": slower["before"], "after": slower["control"], "control": slower["before"]}
    assert judge_samples(same, "classic", "decode").word == "PASS"


def test_the_same_build_passes(tmp_path: Path) -> None:
    decision = judge_samples(rounds(tmp_path, 0.0), "pairs", "decode")
    assert decision.word == "PASS"
    assert abs(decision.figures["slowdown"]) < 0.01


def test_receipts_that_were_not_interleaved_cannot_be_paired(tmp_path: Path) -> None:
    samples = rounds(tmp_path, 0.05)
    apart = {**samples, "after": samples["after"][::-1]}
    assert judge_samples(apart, "pairs", "decode").word == "INCONCLUSIVE"
    assert judge_samples({**samples, "control": []}, "pairs", "decode").word == "INCONCLUSIVE"


def test_exact_gates_come_first(tmp_path: Path) -> None:
    def other_output(receipt: Any) -> None:
        for place in (receipt["evidence"]["run"], *receipt["evidence"]["repeats"]):
            place["logits_sha256"] = "12" * 32

    decision = judge_samples(rounds(tmp_path / "a", -0.3, n=2, edit=other_output), "pairs", "decode")
    assert decision.word == "FAIL"
    assert "logits" in decision.reasons[0]
    forged = judge_samples(
        rounds(tmp_path / "b", 0.0, n=1, edit=lambda r: r.update(tokens_per_second=1e5)), "pairs", "decode"
    )
    assert forged.word == "FAIL"
    assert "decode_rate" in forged.reasons[0]
    elsewhere = judge_samples(
        rounds(tmp_path / "c", 0.0, n=1, edit=lambda r: r["evidence"]["machine"].update(cpu="Another")),
        "pairs",
        "decode",
    )
    assert elsewhere.word == "INCONCLUSIVE"


SCRIPT = """
import json, sys
sys.path[:0] = {path!r}
from pathlib import Path
from datetime import timedelta
from receipt_history import START, commit_of, retold, write
log = Path({log!r})
n = len(log.read_text().split()) if log.exists() else 0
with log.open("a") as file:
    file.write({name!r} + "\\n")
path = Path(sys.argv[sys.argv.index("--receipt") + 1])
write(retold({factor} * (1 + n * 1e-5), START + timedelta(minutes=n), commit_of(0)), path)
"""


def build(folder: Path, name: str, factor: float) -> Build:
    """A build that writes receipts without running anything, and keeps a log of its calls."""
    code = SCRIPT.format(path=sys.path, log=str(folder / "log"), name=name, factor=factor)
    return Build(name, (sys.executable, "-c", code))


def builds(before: Build, after: Build) -> dict[str, Build]:
    return {"before": before, "after": after, "control": before}


def test_a_copy_has_files_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.py").write_text("1")
    placed = Build("a", ("python",), tmp_path / "one")
    copied = placed.copy(tmp_path / "two")
    assert (tmp_path / "two" / "a.py").read_text() == "1"
    assert str(tmp_path / "two") in copied.command[-1]
    assert installed().copy(tmp_path / "three") == installed()


def test_rounds_mirror_each_other(tmp_path: Path) -> None:
    told: list[str] = []
    samples = run_rounds(
        builds(build(tmp_path, "b", 1.0), build(tmp_path, "a", 1.05)), WORKLOAD, tmp_path / "kept", n_pairs=3, metric="decode",
        budget_ns=1 << 62, tell=told.append,
    )  # fmt: skip
    assert (tmp_path / "log").read_text().split() == ["b", "a", "b"] * 3
    assert [sample.path.relative_to(tmp_path / "kept").as_posix() for sample in samples["after"]] == [
        "after/001.json", "after/002.json", "after/003.json",
    ]  # fmt: skip
    starts = {arm: [s.receipt["evidence"]["run"]["started"] for s in samples[arm]] for arm in ARMS}
    assert starts["before"][0] < starts["after"][0] < starts["control"][0] < starts["control"][1]
    assert starts["control"][1] < starts["after"][1] < starts["before"][1]
    assert judge_samples(samples, "pairs", "decode").reasons[0].startswith("3 pairs, 10 are the least")
    assert told[-1] == "control 3 of 3"


def test_time_ends_the_rounds(tmp_path: Path) -> None:
    now = iter(range(0, 10**12, 10**9))
    samples = run_rounds(
        builds(build(tmp_path, "b", 1.0), build(tmp_path, "a", 1.0)), WORKLOAD, tmp_path / "kept", n_pairs=50, metric="decode",
        budget_ns=5 * 10**9, tell=lambda _: None, clock=lambda: next(now),
    )  # fmt: skip
    assert 2 <= len(samples["after"]) < 6


def test_builds_that_are_none(tmp_path: Path) -> None:
    assert installed().command[0] == sys.executable
    assert find_build(sys.executable, tmp_path, tmp_path).command[0] == sys.executable
    with pytest.raises(
        UnsupportedError, match=r"no build to compare: nowhere.*git revision, a wheel or an interpreter"
    ):
        find_build("nowhere", tmp_path, tmp_path)
    broken = Build("broken", (sys.executable, "-c", "import sys; sys.exit('no such option')"))
    with pytest.raises(UnsupportedError, match=r"a build does not run: broken: got no such option"):
        run_rounds(
            builds(broken, broken), WORKLOAD, tmp_path, n_pairs=1, metric="decode", budget_ns=1, tell=lambda _: None
        )
    silent = Build("silent", (sys.executable, "-c", ""))
    with pytest.raises(UnsupportedError, match="wrote no receipt: silent"):
        run_rounds(
            builds(silent, silent), WORKLOAD, tmp_path, n_pairs=1, metric="decode", budget_ns=1, tell=lambda _: None
        )
