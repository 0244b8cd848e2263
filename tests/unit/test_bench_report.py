"""The harness of the benchmarks: ratios and shares of its tables, and engines in processes of their own."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.engines import Contestant
from benchmarks.files import write_vocabulary
from benchmarks.quiet import busy_percent, parse_times
from benchmarks.report import BANDWIDTH, BUSY, CONTROL, F32_PEAK, NOT_ENGINES, PEAK, Load, Phase, phase_lines

from tritium.bench.benchmark import prompt_of
from tritium.bench.stats import Rounds
from tritium.engine.model import DEMO, load
from tritium.engine.tokenizer import Tokenizer
from tritium.formats.gguf import open_gguf

SAMPLES = {
    BANDWIDTH: [10.0, 20.0],
    PEAK: [100.0, 400.0],
    F32_PEAK: [20.0, 10.0],
    "ours f16": [4.0, 8.0],
    "ours q6_k": [6.0, 12.0],
    "theirs q6_k": [2.0, 6.0],
    "theirs bf16": [1.0, 1.0],
    CONTROL: [4.0, 10.0],
    BUSY: [1.0, 2.0],
}
HEADS = {name: name.split()[1] for name in SAMPLES if name not in NOT_ENGINES}


def phase(is_decode: bool) -> Phase:
    known = [name for name in HEADS if name != "theirs bf16"]
    loads = {name: Load(bytes_per_token=1e9, macs_per_token=10e9, f32_macs_per_token=1e9) for name in known}
    theirs = frozenset(name for name in HEADS if name.startswith("theirs"))
    return Phase("work", is_decode, 2, Rounds(SAMPLES, 2, True), loads, HEADS, theirs)


def test_the_share_of_the_limit_is_taken_round_by_round() -> None:
    decode, prefill = phase(True).limit_percent("ours f16"), phase(False).limit_percent("ours f16")
    assert decode is not None
    assert prefill is not None
    assert (decode.median, decode.low, decode.high) == pytest.approx((40.0, 40.0, 40.0))
    assert (prefill.median, prefill.low, prefill.high) == pytest.approx((30.0, 20.0, 40.0))
    assert phase(True).limit_percent("theirs bf16") is None


def test_the_bound_of_a_prompt_adds_the_time_of_both_kinds_of_products() -> None:
    bound = phase(False).bound_percent("ours f16")
    assert bound is not None
    # Round by round 0.1 s and 0.05 s a token, then 0.025 s and 0.1 s: at 4 and 8 tokens a second.
    assert (bound.low, bound.high) == pytest.approx((60.0, 100.0))
    assert phase(True).bound_percent("ours f16") is None
    assert phase(False).bound_percent("theirs bf16") is None
    row = next(line for line in phase_lines(phase(False)) if "ours f16" in line)
    assert row.split()[-5:] == ["30", "(20–40)", "80", "(60–100)", "–"]


def test_a_peer_is_compared_with_the_same_head() -> None:
    same = phase(True).times_faster("theirs q6_k")
    other = phase(True).times_faster("theirs bf16")
    assert same is not None
    assert other is not None
    assert (same.median, same.low, same.high) == (2.5, 2.0, 3.0)
    assert other.median == 6.0  # against the first of ours
    assert phase(True).times_faster("ours f16") is None


def test_the_table_names_limits_engines_and_the_cut() -> None:
    lines = list(phase_lines(phase(True)))
    assert lines[0] == "work · 2 threads · 2 rounds, cut short by the budget"
    assert lines[1].split() == ["read", "bandwidth", "GB/s", "15", "(10–20)"]
    row = next(line for line in lines if "theirs q6_k" in line)
    assert row.split() == ["theirs", "q6_k", "1000", "15.0", "4", "(2–6)", "25", "(20–30)", "2.5", "(2–3)"]
    assert lines[-1] == "  A/A control, ours f16 over itself: 0.9 (0.8–1)"


def test_a_busy_machine_is_said_to_be_one() -> None:
    quiet = phase(True)
    busy = replace(quiet, rounds=Rounds({**SAMPLES, BUSY: [1.0, 60.0]}, 2, False))
    assert not [line for line in phase_lines(quiet) if "NOT QUIET" in line]
    assert [line for line in phase_lines(busy) if "NOT QUIET" in line]


def test_busy_is_what_was_not_idle() -> None:
    before = parse_times("cpu  100 0 50 800 50 0 0 0 7 7\ncpu0 1 2 3")
    after = parse_times("cpu  130 0 60 850 60 0 0 0 9 9\n")
    assert before == (850, 1000)
    assert busy_percent(before, after) == 40.0
    assert busy_percent(before, before) == 0.0


def test_an_engine_answers_from_its_own_process(tmp_path: Path) -> None:
    with load(DEMO, threads=1) as model:
        logits = model.logits(prompt_of(model.config.vocab_size, 5))
    contestant = Contestant("ours", "tritium", Path(DEMO), "f16", environment={"TRITIUM_ISA": "scalar"})
    with contestant.start(1, tmp_path / "log") as engine:
        assert engine.description["isa"] == "scalar"
        assert engine.ask("hash", tokens=5) == {
            "sha256": hashlib.sha256(logits.tobytes()).hexdigest(),
            "is_best": True,
        }
        assert len(engine.ask("decode", tokens=3, context=4)["ns"]) == 3
        assert len(engine.ask("prefill", tokens=20)["ns"]) == 1
        ops = engine.ask(
            "ops", tokens=3, context=4,
            limits={
                "n_threads": 1, "isa": "scalar", "read_bandwidth_gb_per_s": 1.0, "int8_peak_gmac_per_s": 1.0,
                "f32_peak_gmac_per_s": 1.0,
            },
        )  # fmt: skip
        assert ops["bytes_by_part"]["head"] == pytest.approx(1024 * 256 * 2, rel=0.01)


def test_an_engine_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"gone: .*absent\.gguf"):
        Contestant("gone", "tritium", tmp_path / "absent.gguf", "f16").start(1, tmp_path / "log")


def test_the_filled_vocabulary_is_a_tokenizer(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "vocabulary.gguf", 2000)
    with open_gguf(tmp_path / "vocabulary.gguf") as file:
        tokenizer = Tokenizer.from_gguf(file)
    with load(DEMO, threads=1) as model:
        assert tokenizer.vocab_size == 2000
        assert tokenizer.encode("the king", True, False) == model.tokenize("the king")
