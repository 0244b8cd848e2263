"""The sampler against its written definition, done step by step with Python's own numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tritium import numerics
from tritium.backends.cpu import CpuProgram, Request
from tritium.engine.sampling import Sampler, SamplingParams, draw_full, logprobs_of, weights_of
from tritium.errors import NumericsError, ShapeError
from tritium.types import StepResult

F32 = NDArray[np.float32]
PROMPT = np.array([3, 4], np.int32)


def random_logits(vocab: int, seed: int, *, spread: float = 4.0, levels: int = 0) -> F32:
    values = np.random.default_rng(seed).standard_normal(vocab) * spread
    if levels:
        values = np.rint(values * levels) / levels
    return values.astype(np.float32)


def defined(logits: F32, params: SamplingParams, bits: int) -> int:
    """Steps 4 to 10 of the definition in exact integers, nothing left out and nothing fast."""
    order = sorted(range(len(logits)), key=lambda i: (-float(logits[i]), i))
    if params.temperature == 0:
        return order[0]
    if params.top_k:
        order = order[: params.top_k]
    scaled = (logits - logits[order[0]]) / np.float32(params.temperature)
    z = dict(enumerate(map(float, scaled)))
    weight = {i: round(e * 2.0**32) for i, e in enumerate(map(float, numerics.exp(scaled)))}
    order = [i for i in order if weight[i]]
    if params.typical_p < 1:
        total = sum(weight[i] for i in order)
        mean = 0.0
        for i in order:
            mean += weight[i] * z[i]
        mean /= total
        kept, reached = set(), 0
        for i in sorted(order, key=lambda i: abs(z[i] - mean)):
            if kept and reached >= params.typical_p * total:
                break
            kept.add(i)
            reached += weight[i]
        order = [i for i in order if i in kept]
    if params.top_p < 1:
        total, reached, n = sum(weight[i] for i in order), 0, 0
        while n == 0 or reached < params.top_p * total:
            reached += weight[order[n]]
            n += 1
        kept_by_p = n
    else:
        kept_by_p = len(order)
    floor = params.min_p * weight[order[0]]
    order = [i for n, i in enumerate(order) if n < kept_by_p and weight[i] >= floor]
    target, running = bits * sum(weight[i] for i in order) >> 53, 0
    for i in order:
        running += weight[i]
        if running > target:
            return i
    raise AssertionError("the weights end before the target")


FIELDS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.3},
    {"temperature": 30.0},
    {"temperature": 1.0, "top_k": 7},
    {"temperature": 1.0, "top_k": 1500},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 8.0, "top_p": 0.999},
    {"temperature": 1.0, "min_p": 0.05},
    {"temperature": 9.0, "min_p": 0.01},
    {"temperature": 1.0, "typical_p": 0.5},
    {"temperature": 1.0, "top_k": 50, "typical_p": 0.7, "top_p": 0.8, "min_p": 0.1},
    {"temperature": 2.0, "top_p": 0.95, "min_p": 0.02},
    {"temperature": 1e-6},
    {"temperature": 1e6},
]


@pytest.mark.parametrize("fields", FIELDS, ids=str)
@pytest.mark.parametrize("vocab", [1, 17, 3000, 5000])
def test_a_draw_is_as_defined(fields: dict[str, Any], vocab: int) -> None:
    params = SamplingParams(**fields)
    for seed, levels in ((1, 0), (2, 1), (3, 2)):
        logits = random_logits(vocab, seed, levels=levels)
        for bits in (0, 1, 2**52 + 12345, 9007199000000000, 2**53 - 1):
            assert draw_full(logits, params, bits) == defined(logits, params, bits), (seed, bits)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 5000])
def test_native_weights_are_as_defined(n: int) -> None:
    for seed, spread in enumerate((1e-6, 0.1, 1.0, 10.0, 1e4)):
        logits = random_logits(n, seed, spread=spread)
        first = float(logits.max())
        for temperature in (1e-6, 0.3, 1.0, 30.0, 1e6):
            weights = CpuProgram.weigh(logits, first, temperature)
            assert weights.dtype == np.int64
            assert weights.tolist() == weights_of(logits, first, temperature).tolist()


def test_parts_of_a_list_are_drawn_from_as_all_of_it() -> None:
    """Logits of which nearly all fall into one part, or that reach as far as float32 does."""
    far = np.full(5000, -np.inf, np.float32)
    far[[7, 4999, 11]] = 3e38, 3e38, -3e38
    near = (1.0 + 1e-6 * random_logits(5000, 3)).astype(np.float32)
    near[17] = 20.0
    for logits in (far, near, np.zeros(5000, np.float32)):
        for fields in ({}, {"top_p": 0.9}, {"min_p": 0.5}):
            params = SamplingParams(temperature=2.0, **fields)
            for bits in (0, 2**52 + 12345, 2**53 - 1):
                with np.errstate(over="ignore"):
                    assert draw_full(logits, params, bits, CpuProgram.weigh) == defined(logits, params, bits)


def bits_of(params: SamplingParams, sequence: int, position: int) -> int:
    return int(numerics.uniform(params.seed, sequence, position) * 2**53)


def drawn(result: StepResult, params: SamplingParams, position: int, vocab: int) -> int:
    """What a native result's second list decides, or -1."""
    assert result.draw is not None
    return result.draw(1, position, 0, params.temperature, params.top_p, params.min_p, params.seed, 0, vocab)


def stepped(ids: NDArray[np.int32], values: F32, rest: F32 | None = None, project: Any = None) -> StepResult:
    """A native step's result of a list of candidates, which is the second of two."""
    two = np.array([0, 1], np.int32)
    lists = [np.stack([np.zeros_like(one), one]) for one in (ids, values)]
    rests = None if rest is None else np.stack([np.zeros_like(rest), rest])
    temperatures = None if rest is None else np.ones(2, np.float32)
    table = np.zeros((2, 1), np.int32)
    request = Request(two, two, two, table, two, len(ids), None, *lists, None, None, None, temperatures, rests)
    return StepResult(ids=lists[0], values=lists[1], rest=rests, project=project, draw=request.draw)


@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 1.0, "top_k": 1}, *(f for f in FIELDS if "top_k" in f)], ids=str
)
def test_candidates_and_full_logits_choose_the_same(fields: dict[str, Any]) -> None:
    params = SamplingParams(seed=9, **fields)
    for seed in range(12):
        logits = random_logits(2000, seed, levels=seed % 3)[None]
        one, other = (Sampler(params, 2000, PROMPT, sequence=5) for _ in range(2))
        k = max(one.n_candidates, 1)
        full, _ = one.choose(StepResult(logits=logits), 0, seed)
        if other.n_candidates:
            for more in (0, 9):
                ids, values = numerics.top_k(logits, k + more)
                assert other.choose(StepResult(ids=ids, values=values), 0, seed)[0] == full
                assert other.choose(stepped(ids[0], values[0]), 1, seed)[0] == full
        else:
            assert params.top_k > 1024


@pytest.mark.parametrize("fields", [{}, {"top_p": 0.7}, {"min_p": 0.3}, {"top_p": 0.9, "min_p": 0.01}], ids=str)
@pytest.mark.parametrize("temperature", [1e-6, 0.8, 5.0, 1e6])
def test_a_native_draw_is_as_defined(fields: dict[str, Any], temperature: float) -> None:
    for k, levels in ((1, 0), (2, 0), (17, 1), (40, 0), (1024, 2)):
        params = SamplingParams(temperature=temperature, top_k=k, seed=(1 << 64) - 3, **fields)
        sampler = Sampler(params, 1200, PROMPT, sequence=(1 << 33) + 7)
        logits = random_logits(1200, k, levels=levels)
        ids, values = numerics.top_k(logits[None], k)
        for position in (*range(1, 30), 1 << 40):
            expected = defined(logits, params, bits_of(params, sampler.sequence, position))
            assert sampler.choose(stepped(ids[0], values[0]), 1, position)[0] == expected


def test_a_native_draw_takes_more_bits_than_one_word_has() -> None:
    """Behind two great weights stand so many of 1 that one more turns the draw from the first to the second."""
    params = SamplingParams(temperature=1.0, top_k=1000, seed=5)
    ids, n_turns = np.arange(1000, dtype=np.int32), 0
    for position in range(60):
        bits = bits_of(params, 0, position)
        second = (2.0**53 / bits - 1) * (1 - 1e-7)
        if second > 1:
            continue
        logits = np.full(1000, -50, np.float32)
        logits[:2] = 0, math.log(second)
        great = int(weights_of(logits, 0.0, 1.0).sum())
        turn = next((n for n in range(1, 998) if bits * (great + n) >> 53 == 1 << 32), None)
        if turn is None or bits * great >> 53 == 1 << 32:
            continue
        n_turns += 1
        for n in (turn - 1, turn):
            logits[2 : 2 + n] = -22.18
            assert Sampler(params, 2000, PROMPT).choose(stepped(ids, logits), 1, position)[0] == n - turn + 1
    assert n_turns > 5


TAILS = [f for f in FIELDS if SamplingParams(**f).cuts_a_tail]


def certain_list(logits: F32, n: int, temperature: float, slack: float) -> tuple[NDArray[np.int32], F32, F32]:
    """The n best of a row, and what a step says of the rest."""
    ids, values = numerics.top_k(logits[None], n)
    weights = np.exp((logits.astype(np.float64) - values[0, 0]) / temperature)
    rest = weights.sum() - weights[ids[0]].sum()
    bounds = (rest * (1 + 1e-4 + slack) + 1e-5, max(rest * (1 - 1e-4 - slack) - 1e-5, 0), n)
    return ids[0], values[0], np.array(bounds, np.float32)


@pytest.mark.parametrize("fields", TAILS, ids=str)
def test_a_certain_draw_is_that_of_all_logits(fields: dict[str, Any]) -> None:
    params = SamplingParams(**fields)
    n_certain = n_open = 0
    for seed in range(30):
        logits = random_logits(1000, seed, spread=(0.5, 4.0, 12.0)[seed % 3], levels=seed % 4)
        for n, slack in ((1, 0), (2, 0), (5, 0.01), (40, 0), (256, 0), (256, 2), (1000, 0)):
            ids, values, rest = certain_list(logits, n, params.temperature, slack)
            for position in range(4 * seed, 4 * seed + 4):
                token = drawn(stepped(ids, values, rest), params, position, 1000)
                n_open += token < 0
                n_certain += token >= 0
                assert token in (-1, draw_full(logits, params, bits_of(params, 0, position))), (seed, n, position)
    assert n_certain > 100
    assert n_open


def test_a_sum_that_the_rest_may_reach_is_left_open() -> None:
    """Weights of 4, 2, 1 and 1 eighths: 3/4 is reached by two of them, unless there is more."""
    logits = (np.log(np.array([4.0, 2, 1])) + 1).astype(np.float32)
    ids = np.arange(3, dtype=np.int32)
    for top_p, upper, lower, n, is_certain in (
        (0.74, 0.25, 0.0, 3, True), (0.74, 0.3, 0.0, 3, False), (0.74, 0.3, 0.0, 2, True), (0.76, 0.26, 0.24, 3, True),
        (0.76, 0.26, 0.0, 3, False), (0.74, math.inf, 0.0, 3, False), (0.74, math.nan, 0.0, 3, False), (0.74, 0.0, 0.0, 0, False),
        (0.74, 1e30, 0.0, 3, False), (0.74, 0.25, math.nan, 3, True), (0.74, 0.25, 0.0, math.nan, False),
    ):  # fmt: skip
        params = SamplingParams(temperature=1.0, top_p=top_p)
        rest = np.array([upper, lower, n], np.float32)
        assert (drawn(stepped(ids, logits, rest), params, 2, 5) >= 0) == is_certain, (top_p, upper, n)


def test_what_candidates_do_not_decide_is_drawn_from_full_logits() -> None:
    params = SamplingParams(temperature=1.0, top_p=0.9, seed=2)
    logits = random_logits(3000, 1)
    asked: list[int] = []

    def project(row: int) -> F32:
        asked.append(row)
        return logits

    expected = Sampler(params, 3000, PROMPT).choose(StepResult(logits=logits[None]), 0, 7)[0]
    for n in (1, 256):
        sampler = Sampler(params, 3000, PROMPT)
        assert sampler.rest_temperature == 1.0
        result = stepped(*certain_list(logits, n, 1.0, 0), project)
        assert sampler.choose(result, 1, 7)[0] == expected
        assert asked == [1]
    with pytest.raises(ShapeError, match="weight of what is no candidate"):
        sampler.choose(StepResult(ids=result.ids, values=result.values), 1, 7)


def test_a_draw_of_what_was_not_asked_for_is_refused() -> None:
    logits = random_logits(8, 1)
    ids, values, _ = certain_list(logits, 5, 1.0, 0)
    for result, row, top_k in ((stepped(ids, values), 1, 6), (stepped(ids, values), 2, 5), (stepped(ids, values), -1, 5),
                               (stepped(ids, values), 1, 0), (stepped(ids, values), 1, -1)):  # fmt: skip
        assert result.draw is not None
        with pytest.raises(ValueError, match=r"^draw: "):
            result.draw(row, 0, top_k, 1.0, 0.9, 0.0, 0, 0, 8)


def test_frequencies_follow_the_softmax() -> None:
    logits = np.array([[1.0, 0.0, 2.0, -1.0, 0.5, 1.5, -3.0, 0.25]], np.float32)
    n = 8000
    for temperature in (1.0, 0.5):
        sampler = Sampler(SamplingParams(temperature=temperature, seed=1234), 8, PROMPT)
        result = StepResult(logits=logits)
        counts = np.bincount([sampler.choose(result, 0, position)[0] for position in range(n)], minlength=8)
        p = np.exp(logits[0].astype(np.float64) / temperature)
        expected = n * p / p.sum()
        # 99.9 % of fair samples stay below this bound of chi-square with 7 degrees of freedom.
        assert ((counts - expected) ** 2 / expected).sum() < 24.32
        assert counts.sum() == n


def test_a_truncated_list_is_drawn_in_proportion() -> None:
    logits = np.log(np.array([[8.0, 4.0, 2.0, 1.0, 1.0]], np.float32))
    sampler = Sampler(SamplingParams(temperature=1.0, top_p=0.75, seed=3), 5, PROMPT)
    counts = np.bincount([sampler.choose(StepResult(logits=logits), 0, i)[0] for i in range(6000)], minlength=5)
    assert counts[2:].sum() == 0
    expected = np.array([4000, 2000])
    assert ((counts[:2] - expected) ** 2 / expected).sum() < 10.83


def test_draws_depend_on_seed_sequence_and_position() -> None:
    logits = random_logits(500, 1, spread=0.5)[None]

    def draws(seed: int, sequence: int, start: int) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=1.0, seed=seed), 500, PROMPT, sequence)
        return [sampler.choose(StepResult(logits=logits), 0, start + i)[0] for i in range(20)]

    base = draws(1, 0, 10)
    assert draws(1, 0, 10) == base
    assert draws(1, 0, 11)[:-1] == base[1:]
    assert base not in (draws(2, 0, 10), draws(1, 1, 10), draws(1 << 40, 0, 10))


def test_greedy_takes_the_lowest_id_of_equals() -> None:
    for logits in ([[1.0, 5.0, 5.0, 2.0]], [[-3.0, -0.0, 0.0, -0.0]]):
        sampler = Sampler(SamplingParams(), 4, PROMPT[:0])
        assert sampler.choose(StepResult(logits=np.array(logits, np.float32)), 0, 0)[0] == 1


def test_penalties_and_bias_change_what_the_definition_says() -> None:
    logits = np.array([[1.0, 1.25, -1.0, 2.0, 1.5]], np.float32)
    result = StepResult(logits=logits)

    def chosen(n: int, **fields: Any) -> list[int]:
        sampler = Sampler(SamplingParams(**fields), 5, PROMPT)
        return [sampler.choose(result, 0, i)[0] for i in range(n)]

    assert chosen(2) == [3, 3]
    # 3 and 4 stand in the prompt: 2/1.7 and 1.5/1.7 fall below 1.25, which then falls itself.
    assert chosen(3, repetition_penalty=1.7) == [1, 3, 3]
    assert chosen(3, presence_penalty=0.6) == [3, 4, 3]
    assert chosen(5, frequency_penalty=0.3) == [3, 3, 4, 3, 1]
    assert chosen(1, logit_bias={2: 3.5}) == [2]
    assert chosen(1, logit_bias={3: -0.5, 4: 0.0}) == [3]
    assert chosen(1, logit_bias={3: -0.51}) == [4]
    assert np.array_equal(logits, np.array([[1.0, 1.25, -1.0, 2.0, 1.5]], np.float32))


def test_a_repetition_penalty_pushes_negative_logits_down() -> None:
    sampler = Sampler(SamplingParams(repetition_penalty=2.0), 5, PROMPT)
    logits = np.array([[-9.0, -9.0, -9.0, -2.0, -3.0]], np.float32)
    assert sampler.choose(StepResult(logits=logits), 0, 0)[0] == 3
    logits = np.array([[-9.0, -9.0, -3.5, -2.0, -3.0]], np.float32)
    assert sampler.choose(StepResult(logits=logits), 0, 0)[0] == 2


def test_logprobs_are_the_log_softmax_of_the_raw_logits() -> None:
    logits = random_logits(1000, 4)
    exact = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
    order = np.argsort(-logits, kind="stable")[:5]
    entry = logprobs_of(logits, 17, 5)
    assert entry.token_id == 17
    assert abs(entry.logprob - exact[17]) < 1e-6
    assert [i for i, _ in entry.top] == order.tolist()
    assert np.abs(np.array([p for _, p in entry.top]) - exact[order]).max() < 1e-6
    sampler = Sampler(SamplingParams(logprobs=2, logit_bias={17: 100.0}), 1000, PROMPT)
    token, biased = sampler.choose(StepResult(logits=logits[None]), 0, 0)
    assert token == 17
    assert biased is not None
    assert biased.logprob == entry.logprob
    assert biased.top == entry.top[:2]


def test_what_a_step_is_asked_for() -> None:
    def n(**fields: Any) -> int:
        return Sampler(SamplingParams(**fields), 2000, PROMPT).n_candidates

    assert n() == 1
    assert n(temperature=1.0) == 0
    assert n(temperature=1.0, top_k=40, top_p=0.5) == 40
    assert n(temperature=1.0, top_p=0.5) == n(temperature=1.0, min_p=0.1) == 256
    assert n(temperature=1.0, top_p=0.5, typical_p=0.5) == n(temperature=1.0, top_p=0.5, logprobs=1) == 0
    assert n(temperature=1.0, top_k=1025) == 0
    assert n(logprobs=0) == n(repetition_penalty=1.1) == n(logit_bias={1: 1.0}) == 0
    assert Sampler(SamplingParams(temperature=1.0, top_k=40), 30, PROMPT).n_candidates == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    logits = np.array([[0.0, bad, 1.0]], np.float32)
    with pytest.raises(NumericsError, match="position 6"):
        Sampler(SamplingParams(temperature=1.0), 3, PROMPT[:0]).choose(StepResult(logits=logits), 0, 7)
    ids, values = np.zeros(1, np.int32), np.array([bad], np.float32)
    for result, row in ((StepResult(ids=ids[None], values=values[None]), 0), (stepped(ids, values), 1)):
        with pytest.raises(NumericsError, match="position 6"):
            Sampler(SamplingParams(temperature=1.0, top_k=1), 3, PROMPT[:0]).choose(result, row, 7)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 0},
        {"max_tokens": 1.5},
        {"max_tokens": True},
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": 1e-9},
        {"temperature": "1"},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"typical_p": 0.0},
        {"typical_p": 0.5},
        {"repetition_penalty": 0.0},
        {"frequency_penalty": math.inf},
        {"presence_penalty": math.nan},
        {"logit_bias": {-1: 1.0}},
        {"logit_bias": {1: math.nan}},
        {"seed": -1},
        {"seed": 1 << 64},
        {"stop": [""]},
        {"stop": [5]},
        {"stop_ids": [-1]},
        {"stop_ids": ["a"]},
        {"logprobs": -1},
    ],
    ids=str,
)
def test_a_parameter_out_of_range_is_named(fields: dict[str, Any]) -> None:
    name = next(iter(fields))
    with pytest.raises(ShapeError, match=f"^{name}"):
        SamplingParams(**fields)


@pytest.mark.parametrize("fields", [{"stop_ids": [9]}, {"logit_bias": {9: 1.0}}], ids=str)
def test_ids_beyond_the_vocabulary_are_named(fields: dict[str, Any]) -> None:
    with pytest.raises(ShapeError, match=next(iter(fields))):
        Sampler(SamplingParams(**fields), 9, PROMPT)


def test_numbers_of_numpy_draw_as_those_of_python() -> None:
    logits = random_logits(300, 1)
    numpy = SamplingParams(temperature=np.float32(0.8), top_p=np.float32(0.7), seed=np.int64(1 << 40))
    python = SamplingParams(temperature=float(np.float32(0.8)), top_p=float(np.float32(0.7)), seed=1 << 40)
    assert numpy == python
    one, other = (Sampler(params, 300, PROMPT) for params in (numpy, python))
    for position in range(50):
        result = StepResult(logits=logits[None])
        assert one.choose(result, 0, position) == other.choose(result, 0, position)


def test_a_single_stop_string_may_stand_alone() -> None:
    assert SamplingParams(stop="end").stop == ("end",)
