"""The harness of the benchmarks: ratios and shares of its tables, and engines in processes of their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks import results
from benchmarks.engine_tritium import typical
from benchmarks.engines import Contestant
from benchmarks.files import write_vocabulary
from benchmarks.quiet import Patience, busy_percent, noise_of, parse_times
from benchmarks.report import (
    BANDWIDTH,
    BUSY,
    CONTROL,
    F32_PEAK,
    NEAR,
    NOT_ENGINES,
    PEAK,
    Kind,
    Load,
    Phase,
    phase_lines,
)
from benchmarks.session import Session, run_phase, speed
from benchmarks.work import Work

from tritium.backends import cpu
from tritium.bench.benchmark import prompt_of
from tritium.bench.figures import read_sample
from tritium.bench.stats import Rounds
from tritium.engine.model import DEMO, load
from tritium.engine.tokenizer import Tokenizer
from tritium.errors import FormatError
from tritium.formats.gguf import open_gguf
from tritium.types import Trace

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


def phase(kind: Kind) -> Phase:
    known = [name for name in HEADS if name != "theirs bf16"]
    loads = {name: Load(bytes_per_token=1e9, macs_per_token=10e9, f32_macs_per_token=1e9) for name in known}
    theirs = frozenset(name for name in HEADS if name.startswith("theirs"))
    return Phase("work", kind, 2, Rounds(SAMPLES, 2, True), loads, HEADS, theirs, "isa")


def test_the_share_of_the_limit_is_taken_round_by_round() -> None:
    decode, prefill = phase("decode").limit_percent("ours f16"), phase("prefill").limit_percent("ours f16")
    assert decode is not None
    assert prefill is not None
    assert (decode.median, decode.low, decode.high) == pytest.approx((40.0, 40.0, 40.0))
    assert (prefill.median, prefill.low, prefill.high) == pytest.approx((30.0, 20.0, 40.0))
    assert phase("decode").limit_percent("theirs bf16") is None


def test_the_bound_of_a_prompt_adds_the_time_of_both_kinds_of_products() -> None:
    bound = phase("prefill").bound_percent("ours f16")
    assert bound is not None
    # Round by round 0.1 s and 0.05 s a token, then 0.025 s and 0.1 s: at 4 and 8 tokens a second.
    assert (bound.low, bound.high) == pytest.approx((60.0, 100.0))
    assert phase("decode").bound_percent("ours f16") is None
    assert phase("prefill").bound_percent("theirs bf16") is None
    row = next(line for line in phase_lines(phase("prefill")) if "ours f16" in line)
    assert row.split()[-5:] == ["30", "(20–40)", "80", "(60–100)", "–"]


def test_sequences_side_by_side_read_and_multiply_at_a_time() -> None:
    # Round by round 0.1 s and 0.05 s to read a token's bytes, 0.1 s and 0.025 s for its products.
    assert phase("batch").limits("ours f16") == pytest.approx([10.0, 20.0])
    quick = replace(phase("batch"), rounds=Rounds({**SAMPLES, BANDWIDTH: [20.0, 80.0]}, 2, False))
    assert quick.limits("ours f16") == pytest.approx([10.0, 40.0])


def test_a_peer_is_compared_with_the_same_head() -> None:
    same = phase("decode").times_faster("theirs q6_k")
    other = phase("decode").times_faster("theirs bf16")
    assert same is not None
    assert other is not None
    assert (same.median, same.low, same.high) == (2.5, 2.0, 3.0)
    assert other.median == 6.0  # against the first of ours
    assert phase("decode").times_faster("ours f16") is None


def test_the_table_names_limits_engines_and_the_cut() -> None:
    lines = list(phase_lines(phase("decode")))
    assert lines[0] == "work · isa · 2 threads · 2 rounds, cut short by the budget"
    assert lines[1].split() == ["read", "bandwidth", "GB/s", "15", "(10–20)"]
    row = next(line for line in lines if "theirs q6_k" in line)
    assert row.split() == ["theirs", "q6_k", "1000", "15.0", "4", "(2–6)", "25", "(20–30)", "2.5", "(2–3)"]
    assert lines[-1] == "  A/A control, ours f16 over itself: 0.9 (0.8–1)"


def test_a_busy_machine_is_said_to_be_one() -> None:
    quiet = phase("decode")
    busy = replace(quiet, rounds=Rounds({**SAMPLES, BUSY: [1.0, 60.0]}, 2, False))
    assert not [line for line in phase_lines(quiet) if "NOT QUIET" in line]
    assert [line for line in phase_lines(busy) if "NOT QUIET" in line]


def calm(bandwidth: list[float], n_threads: int = 2) -> Phase:
    """A phase whose engine agrees with itself."""
    samples = {**SAMPLES, CONTROL: SAMPLES["ours f16"], BANDWIDTH: bandwidth}
    return replace(phase("decode"), n_threads=n_threads, rounds=Rounds(samples, len(bandwidth), False))


def test_noise_has_reasons() -> None:
    steady = calm([10.0, 11.0])
    assert noise_of([steady]) == {
        "is_quiet": True, "reasons": [], "others_percent": {"median": 1.5, "most": 2.0}, "bandwidth_of_halves": (10.0, 11.0),
    }  # fmt: skip
    assert noise_of([replace(phase("decode"), rounds=Rounds({**SAMPLES, BANDWIDTH: [10.0, 6.0]}, 2, False))])[
        "reasons"
    ] == [
        "bandwidth went from 10 to 6 GB/s",
        "in work with 2 threads (isa) ours f16 was 0.9 times itself",
    ]
    assert noise_of([])["reasons"] == [
        "what others took of the CPUs was not measured", "bandwidth was measured in fewer than two rounds",
    ]  # fmt: skip
    loud = replace(steady, rounds=Rounds({**steady.rounds.samples, BUSY: [1.0, 60.0]}, 2, False))
    assert noise_of([loud])["reasons"] == ["others took up to 60 % of the CPUs, more than 10 % 1 of 2 times"]


def test_near_products_that_others_slow_down_are_noise() -> None:
    def near(*speeds: float, n_threads: int = 2) -> Phase:
        steady = calm([10.0, 11.0], n_threads)
        return replace(steady, rounds=Rounds({**steady.rounds.samples, NEAR: list(speeds)}, 2, False))

    assert noise_of([near(500.0, 460.0), near(460.0, 440.0), near(300.0, 280.0, n_threads=1)])["is_quiet"]
    assert noise_of([near(500.0, 440.0), near(440.0, 300.0), near(300.0, 200.0, n_threads=1)])["reasons"] == [
        "the near product ran at 88 % of its best with 2 threads (isa)",
        "the near product ran at 83 % of its best with 1 thread (isa)",
    ]


class Steps:
    """A clock that every look at something else moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("benchmarks.quiet.time.monotonic", lambda: self.now)

    def probe(self, *found: float) -> Callable[[], float]:
        """Gives one value after the other, a second apart."""
        values = iter(found)

        def take() -> float:
            self.now += 1.0
            return next(values)

        return take


def test_a_round_waits_for_calm_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, patience, kind = Steps(monkeypatch), Patience(400.0), ("isa", 2)
    patience.begin()
    patience.wait(kind, steps.probe(*[600.0, 400.0, 601.0] * 33, 599.0))  # the first finds out what calm is
    assert patience.spent_s == 100.0
    patience.begin()
    patience.wait(kind, steps.probe(500.0, 500.0, 590.0, 570.0, 600.0))  # 570 is short of 95 % of 601
    assert patience.spent_s == 105.0
    patience.wait(kind, steps.probe(*[500.0] * 70))  # a quarter of the 300 seconds that were left
    assert patience.spent_s == 175.0
    patience.wait(kind, steps.probe())
    assert patience.is_out
    Patience(0.0).wait(kind, steps.probe())


def test_a_round_that_others_slowed_down_does_not_count_while_patience_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, patience, kind = Steps(monkeypatch), Patience(40.0), ("isa", 2)
    patience.best[kind] = 600.0

    def counts(*found: float) -> bool:
        patience.wait(kind, steps.probe(600.0, 600.0, 600.0))
        steps.now += 4.0
        return patience.counts(kind, *found)

    patience.begin()
    assert counts(560.0, 545.0)
    assert patience.spent_s == 3.0  # what counts takes nothing
    assert not counts(600.0, 530.0)
    assert patience.spent_s == 10.0
    assert counts(100.0, 100.0)  # a quarter of the patience is spent
    patience.begin()
    assert not counts(500.0, 600.0)
    assert counts(100.0, 700.0)
    assert patience.best[kind] == 700.0
    assert Patience(0.0).counts(kind, 1.0, 2.0)


def test_a_run_that_is_set_aside_leaves_no_trace_in_the_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work("tg4", "decode", 4, 3, 10.0, is_controlled=False)
    session, verdicts = Session(tmp_path, 1), iter([True, False, True, False, True])
    monkeypatch.setattr(Patience, "counts", lambda *_: next(verdicts))
    with Contestant("ours", "tritium", Path(DEMO), "f16").start(1, tmp_path / "log") as engine:
        done = run_phase(session, work, {"ours": engine}, 1, cpu.isas()[0])
    assert (done.rounds.n_rounds, done.rounds.n_set_aside) == (3, 2)
    assert len(done.rounds.samples[NEAR]) == 3
    sample = read_sample(tmp_path / done.receipts["ours"])
    assert sample.receipt["tokens_per_second"] == pytest.approx(sorted(done.rounds.samples["ours"])[1], rel=1e-3)
    assert len(sample.receipt["evidence"]["repeats"]) == 3


def test_bandwidth_that_flips_is_no_drift() -> None:
    flips = [calm([35.0, 60.0, 35.0, 36.0]), calm([60.0, 35.0]), calm([34.0, 35.0, 61.0])]
    assert noise_of(flips)["bandwidth_of_halves"] == (35.5, 35.0)
    assert noise_of(flips)["is_quiet"]


def test_bandwidth_that_drifts_from_phase_to_phase_is_noise() -> None:
    for later in (45.0, 26.0):
        verdict = noise_of([calm([35.0, 35.0, 36.0]), calm([later, 60.0]), calm([later, later])])
        assert not verdict["is_quiet"]
        assert verdict["reasons"] == [f"bandwidth went from 35 to {later:.0f} GB/s"]


def test_bandwidth_is_compared_with_the_same_threads() -> None:
    fewer = calm([20.0, 20.0, 20.0], n_threads=1)
    assert noise_of([calm([40.0, 40.0]), fewer])["is_quiet"]
    assert noise_of([fewer])["is_quiet"]
    assert not noise_of([calm([40.0]), fewer])["is_quiet"]


def test_a_phase_survives_its_file(tmp_path: Path) -> None:
    session = Session(tmp_path, 2, phases=[phase("prefill"), phase("decode")])
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results.document(session, 1.0)), encoding="utf-8")
    assert [list(phase_lines(p)) for p in results.phases(results.read(path))] == [
        list(phase_lines(p)) for p in session.phases
    ]
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(FormatError, match="not results"):
        results.read(path)


def test_the_receipt_tells_of_the_middle_run(tmp_path: Path) -> None:
    work = Work("tg4", "decode", 4, 3, 10.0)
    with Contestant("ours", "tritium", Path(DEMO), "f16").start(1, tmp_path / "log") as engine:
        speeds = [speed(engine, work, {}, "tg4") for _ in range(3)]
        index = engine.ask("receipt", work="tg4", path=str(tmp_path / "receipt.json"))["index"]
    sample = read_sample(tmp_path / "receipt.json")
    assert not sample.verdict.failed
    assert speeds[index] == sorted(speeds)[1]
    assert sample.receipt["tokens_per_second"] == pytest.approx(speeds[index], rel=1e-3)
    assert sample.receipt["deterministic"]
    assert len(sample.receipt["evidence"]["repeats"]) == 3


def test_a_cached_context_is_no_prefill_and_sequences_are_counted_together(tmp_path: Path) -> None:
    options = {"prefix_cache": True, "kv": "int8"}
    with Contestant("ours", "tritium", Path(DEMO), "f16", options=options).start(1, tmp_path / "log") as engine:
        first, again = (engine.ask("decode", tokens=3, context=100, keep="tg3", seed=1) for _ in range(2))
        assert first["cached"] == 0
        assert again["cached"] > 0
        assert again["bytes_per_token"] == first["bytes_per_token"]
        engine.ask("receipt", work="tg3", path=str(tmp_path / "receipt.json"))
        together = engine.ask("batch", sequences=4, tokens=5, context=8, keep="4 × tg5")
        engine.ask("receipt", work="4 × tg5", path=str(tmp_path / "batch.json"))
    assert not read_sample(tmp_path / "receipt.json").verdict.failed
    batch = read_sample(tmp_path / "batch.json")
    assert not batch.verdict.failed
    assert batch.receipt["tokens_per_second"] == pytest.approx(20e9 / sum(together["ns"]), rel=1e-3)
    assert together["tokens"] == 20
    assert together["bytes_per_token"] < first["bytes_per_token"] / 2


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
        ops = engine.ask("ops", tokens=3, context=4)
        assert (ops["limits"]["isa"], ops["limits"]["n_threads"]) == ("scalar", 1)
        assert ops["bytes_by_part"]["head"] == pytest.approx(1024 * 256 * 2, rel=0.01)


def test_another_ones_turn_on_a_cpu_is_no_cost_of_an_op() -> None:
    def trace(ns: int, n_bytes: int) -> Trace:
        return Trace(1, 2, ns + 5, [("a", "k")], np.array([[1, 10, 0, n_bytes, ns]], np.int64))

    together = typical([trace(100, 7), trace(9000, 8), trace(102, 9)])
    assert together.values.tolist() == [[3, 30, 0, 24, 306]]
    assert (together.n_steps, together.n_tokens, together.wall_ns) == (3, 6, 321)


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
