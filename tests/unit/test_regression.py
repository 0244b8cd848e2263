"""Decisions about speed: single ones by hand, and how often they are right, on a machine whose clock is a variable.

The machine that is simulated has a speed of its own in each session (2.66 % from one to the next), noise of 0.9 % in each
run, and a drift; a run moves the clock by its duration.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable

import pytest

from tritium.bench.regression import judge_classic, judge_envelope, judge_pairs, judge_ratchet
from tritium.bench.stats import interleave
from tritium.bench.verdict import EXIT_CODES, Decision, together, worst

SESSION_NOISE, RUN_NOISE = 0.0266, 0.009
CPU_KERNELS = ["i2s_gemv_avx2", "attention_real_avx2", "embedding_lookup_f16_avx2"]


class Machine:
    """One session on it: ``run`` takes a build's duration, in a speed of the session, and moves the clock."""

    def __init__(self, rng: random.Random, noise: float = RUN_NOISE) -> None:
        self.rng, self.noise = rng, noise
        self.now_ns = 0
        self.speed = math.exp(rng.gauss(0, SESSION_NOISE))
        self.drift = rng.gauss(0, 1e-3)

    def clock(self) -> int:
        return self.now_ns

    def run(self, slowdown: float) -> float:
        begun = self.now_ns
        drifted = 1 + self.drift * begun / 1e9
        self.now_ns += round(1e9 * (1 + slowdown) / self.speed * drifted * math.exp(self.rng.gauss(0, self.noise)))
        return (self.now_ns - begun) / 1e9


def paired_job(rng: random.Random, slowdown: float, n: int = 10, noise: float = RUN_NOISE) -> Decision:
    """One job as ``tritium compare`` does it."""
    machine = Machine(rng, noise)
    rounds = interleave(
        {"before": lambda: machine.run(0), "after": lambda: machine.run(slowdown), "control": lambda: machine.run(0)},
        n_rounds=n, budget_ns=1 << 62, clock=machine.clock,
    )  # fmt: skip
    return judge_pairs(rounds.samples["before"], rounds.samples["after"], rounds.samples["control"])


def rates(job: Callable[[random.Random], str], n: int = 4000) -> dict[str, float]:
    """How often a job ends with each word."""
    rng = random.Random(20261121)
    words = [job(rng) for _ in range(n)]
    return {word: words.count(word) / n for word in sorted(set(words))}


def test_paired_rounds_raise_no_false_alarm() -> None:
    found = rates(lambda rng: paired_job(rng, 0.0).word)
    assert found.get("FAIL", 0) == found.get("ATTENTION", 0) == 0
    assert found["PASS"] > 0.97


def test_paired_rounds_find_three_percent() -> None:
    found = rates(lambda rng: paired_job(rng, 0.03).word)
    assert 0.95 <= found["FAIL"] + found["ATTENTION"] <= 0.995
    assert 0.4 <= found["FAIL"] <= 0.6, "a cut at three percent finds half of those that are three percent slower"
    assert found.get("PASS", 0) <= 0.01


def test_paired_rounds_find_four_percent_always() -> None:
    found = rates(lambda rng: paired_job(rng, 0.04).word, 1000)
    assert found["FAIL"] >= 0.95
    assert found["FAIL"] + found.get("ATTENTION", 0) >= 0.995
    assert "PASS" not in found


def test_noise_that_hides_a_regression_is_inconclusive() -> None:
    found = rates(lambda rng: paired_job(rng, 0.0, noise=0.08).word, 1000)
    assert found["INCONCLUSIVE"] > 0.75
    assert found.get("FAIL", 0) <= 0.015


def rank_sum_p(before: list[float], after: list[float]) -> float:
    """Mann and Whitney's test that ``after`` is slower, by its normal approximation: what repeats in a job are tested with."""
    n, m = len(before), len(after)
    wins = sum((b > a) + (b == a) / 2 for a in before for b in after)
    z = (wins - n * m / 2 - 0.5) / math.sqrt(n * m * (n + m + 1) / 12)
    return 0.5 * math.erfc(z / math.sqrt(2))


def test_a_rank_test_on_repeats_inside_one_job_raises_thirty_percent() -> None:
    """Which is why there is no such policy: the repeats of a job share its session."""

    def word(rng: random.Random) -> str:
        one, other = Machine(rng), Machine(rng)
        before, after = ([machine.run(0) for _ in range(10)] for machine in (one, other))
        slower = statistics.median(after) / statistics.median(before) - 1
        return "FAIL" if rank_sum_p(before, after) < 0.01 and slower >= 0.02 else "PASS"

    assert 0.25 <= rates(word)["FAIL"] <= 0.35


def test_an_envelope_misses_ten_percent_nine_times_in_ten() -> None:
    def word(rng: random.Random) -> str:
        baseline, current = 20 / Machine(rng).run(0), 20 / Machine(rng).run(0.1 / 0.9)
        return "PASS" if 0.85 * baseline <= current <= 1.15 * baseline else "FAIL"

    assert 0.86 <= rates(word)["PASS"] <= 0.94


def test_the_ratchet_between_sessions() -> None:
    def word(rng: random.Random, slowdown: float) -> str:
        def speeds(machine: Machine, slowdown: float) -> list[float]:
            return [1 / machine.run(slowdown) for _ in range(5)]

        return judge_ratchet(speeds(Machine(rng), 0), speeds(Machine(rng), slowdown)).word

    assert rates(lambda rng: word(rng, 0.0)).get("FAIL", 0) <= 0.003
    assert rates(lambda rng: word(rng, 0.25))["FAIL"] >= 0.95
    assert rates(lambda rng: word(rng, 0.08))["PASS"] <= 0.5


@pytest.mark.parametrize("policy", [judge_classic, lambda old, new: judge_ratchet([old] * 5, [new] * 5)])
def test_what_is_no_figure_is_never_zero_percent(policy: Callable[[float | None, float | None], Decision]) -> None:
    for nothing in (0.0, None, math.nan, math.inf, -1.0):
        assert policy(nothing, 20.0).word == "INCONCLUSIVE"
        assert policy(20.0, nothing).word == "FAIL"
        assert policy(nothing, nothing).word == "FAIL"
    assert judge_ratchet([], [1.0]).word == judge_ratchet([1.0], []).word == "INCONCLUSIVE"
    assert judge_pairs([0.0] * 10, [0.0] * 10, [0.0] * 10).word == "FAIL"
    assert judge_pairs([0.0] * 10, [1.0] * 10, [1.0] * 10).word == "INCONCLUSIVE"


def test_pairs_by_hand() -> None:
    before = [1.0 + i / 1000 for i in range(10)]
    slower = [b * 1.05 for b in before]
    assert judge_pairs(before, slower, before).word == "FAIL"
    assert judge_pairs(before, [b * 1.025 for b in before], before).word == "ATTENTION"
    assert judge_pairs(before, [b * 1.01 for b in before], before).word == "PASS"
    assert judge_pairs(before, [b * 0.8 for b in before], before).word == "ATTENTION"
    assert judge_pairs(before[:9], slower[:9], before[:9]).word == "INCONCLUSIVE"
    assert judge_pairs(before, slower, [b * 1.03 for b in before]).word == "INCONCLUSIVE"
    figures = judge_pairs(before, slower, before).figures
    assert figures["slowdown"] == pytest.approx(0.05)
    assert figures["p_slower"] == 1 / 1024


@pytest.mark.parametrize(
    ("current", "word"), [(36.0, "FAIL"), (36.1, "PASS"), (38.0, "PASS"), (41.7, "PASS"), (41.81, "ATTENTION")]
)
def test_classic(current: float, word: str) -> None:
    assert judge_classic(38.0, current).word == word


@pytest.mark.parametrize(
    ("speed", "word"),
    [(8.4, "FAIL"), (8.5, "PASS"), (15.3, "PASS"), (23.0, "PASS"), (23.1, "ATTENTION"), (0.0, "FAIL")],
)
def test_envelope_of_the_cpu(speed: float, word: str) -> None:
    def judged(**changes: object) -> str:
        run = {"backend": "cpu", "kernels": CPU_KERNELS, "compute_path": "real", "deterministic": True,
               "tokens_per_second": speed, **changes}  # fmt: skip
        return judge_envelope(**run).word  # type: ignore[arg-type]

    assert judged() == word
    assert judged(compute_path="mock") == judged(deterministic=False) == "FAIL"
    assert judged(kernels=[*CPU_KERNELS, "gemm_fp16"]) == "FAIL"
    assert judged(kernels=CPU_KERNELS[:1]) == "NOT MEASURED"


def test_envelopes_of_the_others() -> None:
    def judged(backend: str, kernels: list[str], speed: float) -> str:
        decision = judge_envelope(
            backend=backend, kernels=kernels, compute_path="real", deterministic=False, tokens_per_second=speed
        )
        return decision.word

    assert [judged("cuda", ["gemm_i2s_bf16"], speed) for speed in (37.4, 37.5, 125.0, 126.0)] == [
        "FAIL", "PASS", "PASS", "ATTENTION",
    ]  # fmt: skip
    assert judge_envelope(
        backend="cpu", kernels=["qk256_scalar_gemv"], compute_path="real", deterministic=True, tokens_per_second=0.1
    ).word == "ATTENTION"  # fmt: skip


def test_words_together() -> None:
    assert worst(["PASS", "NOT MEASURED", "ATTENTION"]) == "ATTENTION"
    assert worst(["PASS", "PENDING", "INCONCLUSIVE"]) == "INCONCLUSIVE"
    assert worst(["INCONCLUSIVE", "FAIL", "PENDING"]) == "FAIL"
    assert worst([]) == worst(["NOT MEASURED"]) == "INCONCLUSIVE"
    assert EXIT_CODES == {
        "PASS": 0, "ATTENTION": 0, "NOT MEASURED": 0, "FAIL": 6, "INCONCLUSIVE": 8, "PENDING": 8,
    }  # fmt: skip
    both = together([Decision("PASS", ("a",), {"x": 1}), Decision("FAIL", ("b",), {"y": 2})])
    assert (both.word, both.reasons, both.figures, both.exit_code) == ("FAIL", ("b", "a"), {"x": 1, "y": 2}, 6)
