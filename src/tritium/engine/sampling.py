"""Choose the next token from logits: one written definition, the same choice on every machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from tritium.errors import NumericsError, ShapeError
from tritium.numerics import F32, exp, log64, philox, top_k
from tritium.types import StepResult

MAX_CANDIDATES = 1024
"""The most candidates that a step selects; a larger top_k asks for full logits."""

TAIL_CANDIDATES = 256
"""Candidates of a draw by top_p or min_p alone; it rarely needs more."""

WEIGHT_ONE = 4294967296.0
"""Weight of the best candidate. Weights are integers, so that their sums are exact in any order."""

Weigh = Callable[[F32, float, float], NDArray[np.int64]]
"""Weights (n,) i64 of step 6, from logits (n,) f32, the greatest of all and the temperature."""

# Where a whole list is drawn from, it is divided into so many parts by logit; only those that decide are sorted.
_PARTS = 4096
_LEAST_Z = -23.0
"""Below this z the weight is 0."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen and when to stop.

    The definition, for logits l of one position, float32 unless said otherwise:

    1. repetition_penalty r: for ids in the prompt or the output, l > 0 becomes l/r, else l·r (Keskar et al. 2019).
    2. l −= frequency_penalty · (times in the output); then l −= presence_penalty for ids in the output.
    3. l += logit_bias[id].
    4. The candidates are all ids by descending l, ties by ascending id. temperature 0 takes the first: done.
    5. top_k > 0 keeps the first k.
    6. z = (l − l_first) / temperature; weight = round_half_even(exp(z)·2³²), an integer; those of weight 0 are dropped.
    7. typical_p < 1: m = Σ weight·z / Σ weight, summed in list order in float64; keeps the ids nearest to m by |z − m|, ties in
       list order, until their weight reaches typical_p of all (Meister et al. 2022); the list's order stays.
    8. top_p < 1: keeps the shortest beginning of the list whose weight is at least top_p of what is left (Holtzman et al. 2019).
    9. min_p > 0: keeps weights of at least min_p times the first.
    10. With u = 53 random bits of Philox(seed, sequence, position), the token is the first whose running sum of weights
        exceeds floor(u·Σ weight / 2⁵³). ``sequence`` counts the prompts of a call; ``position`` is the token's own.

    ``max_tokens`` None runs to the end of the context. ``stop`` strings end the text in front of themselves; ``stop_ids``
    and the model's own end tokens (unless ``ignore_eos``) end it with their token, which has no text. ``logprobs`` n asks for the
    natural log-probability of each token and of the n best, from the model's logits before step 1.

    Errors: ShapeError naming the field.
    """

    max_tokens: int | None = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    stop: Sequence[str] = ()
    stop_ids: Sequence[int] = ()
    ignore_eos: bool = False
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, np.generic):  # whose arithmetic overflows, or is of float32
                object.__setattr__(self, one.name, value.item())
        _check_integers(self)
        _check_numbers(self)
        if not all(isinstance(text, str) and text for text in self.stop):
            raise ShapeError("stop", expected="strings that are not empty", got=list(self.stop))
        if self.typical_p < 1 and self.temperature == 0:
            raise ShapeError("typical_p", expected="a temperature above 0 with it", got=self.typical_p)

    @property
    def has_penalties(self) -> bool:
        """True where a choice depends on earlier tokens."""
        return self.repetition_penalty != 1 or self.frequency_penalty != 0 or self.presence_penalty != 0

    @property
    def n_candidates(self) -> int:
        """How many of the best logits decide the choice: 0 asks for all of them."""
        if self.has_penalties or self.logit_bias or self.logprobs is not None:
            return 0
        if self.temperature == 0:
            return 1
        if self.cuts_a_tail:
            return TAIL_CANDIDATES
        return self.top_k if self.top_k <= MAX_CANDIDATES else 0

    @property
    def cuts_a_tail(self) -> bool:
        """True where a draw among few decides, but the weight of all others may, too: top_p or min_p without top_k."""
        return self.temperature > 0 and not self.top_k and self.typical_p == 1 and (self.top_p < 1 or self.min_p > 0)


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _check_integers(p: SamplingParams) -> None:
    bounds = {"max_tokens": (1, 1 << 31), "top_k": (0, 1 << 31), "seed": (0, 1 << 64), "logprobs": (0, 1 << 10)}
    for name, (least, end) in bounds.items():
        value = getattr(p, name)
        if value is None and name in ("max_tokens", "logprobs"):
            continue
        if not _is_integer(value) or not least <= value < end:
            raise ShapeError(name, expected=f"an integer, {least} to {end - 1}", got=repr(value))
    for name, ids in (("stop_ids", p.stop_ids), ("logit_bias", p.logit_bias)):
        if not all(_is_integer(token) and token >= 0 for token in ids):
            raise ShapeError(name, expected="token ids", got=list(ids))


def _check_numbers(p: SamplingParams) -> None:
    rules: dict[str, tuple[str, Callable[[float], bool]]] = {
        "temperature": ("0, or 1e-6 to 1e6", lambda x: x == 0 or 1e-6 <= x <= 1e6),
        "top_p": ("above 0, at most 1", lambda x: 0 < x <= 1),
        "min_p": ("0 to 1", lambda x: 0 <= x <= 1),
        "typical_p": ("above 0, at most 1", lambda x: 0 < x <= 1),
        "repetition_penalty": ("1e-3 to 1e3", lambda x: 1e-3 <= x <= 1e3),
        "frequency_penalty": ("−1e3 to 1e3", lambda x: abs(x) <= 1e3),
        "presence_penalty": ("−1e3 to 1e3", lambda x: abs(x) <= 1e3),
    }
    named = {name: getattr(p, name) for name in rules}
    for token, bias in p.logit_bias.items():
        named[f"logit_bias[{token}]"] = bias
        rules[f"logit_bias[{token}]"] = ("−1e3 to 1e3", lambda x: abs(x) <= 1e3)
    for name, (expected, holds) in rules.items():
        value = named[name]
        if isinstance(value, bool) or not isinstance(value, int | float | np.floating) or not holds(float(value)):
            raise ShapeError(name, expected=expected, got=repr(value))


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural log-probabilities at one position: of the chosen token, and (id, log-probability) of the best, descending."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def log_softmax(logits: F32) -> tuple[float, float]:
    """The maximum m and the logarithm s of Σ exp(l − m): a token's log-probability is (l − m) − s.

    exp is the profile's, in float32; the sum runs in the order of ids and the logarithm is taken in float64.
    Shapes: (V,) f32.
    """
    best = logits.max()
    total = float(np.cumsum(exp(logits - best), dtype=np.float64)[-1])
    return float(best), log64(total)


def logprobs_of(logits: F32, token: int, n: int) -> TokenLogprob:
    """Log-probabilities of ``token`` and of the ``n`` best. Shapes: (V,) f32."""
    best, log_total = log_softmax(logits)
    ids, values = _best(logits, n)
    top = tuple((int(i), (float(v) - best) - log_total) for i, v in zip(ids, values, strict=True))
    return TokenLogprob(token, (float(logits[token]) - best) - log_total, top)


def weights_of(logits: F32, first: float, temperature: float) -> NDArray[np.int64]:
    """Weights of step 6, zeros included. Shapes: logits (n,) f32 → (n,) i64; ``first``: the greatest of all logits."""
    return np.rint(exp(_z(logits, first, temperature)).astype(np.float64) * WEIGHT_ONE).astype(np.int64)


def _z(logits: F32, first: float, temperature: float) -> F32:
    z: F32 = (logits - np.float32(first)) / np.float32(temperature)
    return z


def draw(
    ids: NDArray[np.integer], logits: F32, params: SamplingParams, random_bits: int, weigh: Weigh = weights_of
) -> int:
    """Steps 6 to 10 over a whole sorted list. Shapes: ids (n,) int, logits (n,) f32, descending, the first finite."""
    first = logits.item(0)
    weights = _above_zero(weigh(logits, first, params.temperature))
    if params.typical_p < 1:
        kept = _typical(_z(logits[: len(weights)], first, params.temperature), weights, params.typical_p)
        ids, weights = ids[kept], weights[kept]
    sums = weights.cumsum()
    n = _truncate(weights, sums, sums.item(-1), params)
    return ids.item(_search(sums, sums.item(n - 1), random_bits))


def _above_zero(weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """A descending list without the zeros at its end."""
    return weights if weights.item(-1) else weights[: (-weights).searchsorted(0)]


def _typical(z: F32, weights: NDArray[np.int64], typical_p: float) -> NDArray[np.intp]:
    wide, total = z.astype(np.float64), float(weights.sum())
    mean = float(np.cumsum(weights.astype(np.float64) * wide)[-1]) / total
    nearest = np.argsort(np.abs(wide - mean), kind="stable")
    n = int(np.searchsorted(np.cumsum(weights[nearest]), typical_p * total, side="left")) + 1
    return np.sort(nearest[:n])


def _truncate(weights: NDArray[np.int64], sums: NDArray[np.int64], total: int, params: SamplingParams) -> int:
    """How many of the list top-p and min-p keep; ``total`` is the weight of the whole list. At least 1."""
    n = len(weights)
    if params.top_p < 1:
        n = min(n, int(sums.searchsorted(params.top_p * total)) + 1)
    if params.min_p > 0:
        n = min(n, int((-weights).searchsorted(-(params.min_p * weights.item(0)), side="right")))
    return n


def _search(sums: NDArray[np.int64], total: int, random_bits: int) -> int:
    return int(sums.searchsorted((random_bits * total) >> 53, side="right"))


def draw_full(logits: F32, params: SamplingParams, random_bits: int, weigh: Weigh = weights_of) -> int:
    """Steps 4 to 10 over all logits, the greatest of them finite. Shapes: (V,) f32."""
    if params.top_k:
        return draw(*_best(logits, params.top_k), params, random_bits, weigh)
    if params.typical_p < 1 or len(logits) <= _PARTS:
        return draw(*_best(logits, len(logits)), params, random_bits, weigh)
    first = float(logits.max())
    weights = weigh(logits, first, params.temperature)
    order = _Order(logits, weights, first, params.temperature)
    kept = total = int(weights.sum())
    if params.top_p < 1:
        # A sum of weights is below 2⁵³: float64 holds it.
        kept = order.first_sum(lambda sums: int(sums.searchsorted(params.top_p * total)))[1]
    if params.min_p > 0:
        kept = min(kept, int(weights[weights >= params.min_p * int(weights.max())].sum()))
    target = (random_bits * kept) >> 53
    return order.first_sum(lambda sums: int(sums.searchsorted(target, side="right")))[0]


class _Order:
    """The list of step 4 in parts, each of which holds what stands before all of the next; sorted part by part, when asked.

    Shapes: logits (V,) f32, weights (V,) i64.
    """

    def __init__(self, logits: F32, weights: NDArray[np.int64], first: float, temperature: float) -> None:
        self._logits, self._weights = logits, weights
        width = min(-_LEAST_Z, (first - float(logits.min())) / temperature) * temperature
        # Rounding keeps the order of the differences.
        scaled = (np.float32(first) - logits) * np.float32((_PARTS - 1) / max(width, 1e-30))
        self._parts = np.minimum(scaled, np.float32(_PARTS - 1)).astype(np.int64)
        self._sums = np.bincount(self._parts, weights, _PARTS).astype(np.int64).cumsum()

    def first_sum(self, search: Callable[[NDArray[np.int64]], int]) -> tuple[int, int]:
        """The id at which the running sum is the first that ``search`` looks for in ascending ones, and that sum."""
        part = search(self._sums)
        ids = np.flatnonzero(self._parts == part)
        ids = ids[np.argsort(-self._logits[ids], kind="stable")]
        sums = self._weights[ids].cumsum() + (self._sums.item(part - 1) if part else 0)
        at = search(sums)
        return ids.item(at), sums.item(at)


def _best(logits: F32, k: int) -> tuple[NDArray[np.integer], F32]:
    """The k first of the sorted list, (n,) and (n,): all that tie with the last of them compete by id."""
    if k == 0:
        return np.zeros(0, np.int64), logits[:0]
    if k < len(logits) // 4:
        least = np.partition(logits, len(logits) - k)[len(logits) - k]
        ids = np.flatnonzero(logits >= least)
        order, values = top_k(logits[ids][None], k)
        return ids[order[0]], values[0]
    order, values = top_k(logits[None], k)
    return order[0], values[0]


class Sampler:
    """Chooses the tokens of one sequence; remembers which occurred, where penalties need it.

    ``weigh``: a back end's own way to the weights; None is the definition.
    """

    def __init__(
        self, params: SamplingParams, vocab_size: int, prompt: NDArray[np.int32], sequence: int = 0,
        weigh: Weigh | None = None,
    ) -> None:  # fmt: skip
        for name, ids in (("stop_ids", params.stop_ids), ("logit_bias", params.logit_bias)):
            if any(token >= vocab_size for token in ids):
                raise ShapeError(name, expected=f"token ids below {vocab_size}", got=max(ids))
        self.params, self.sequence = params, sequence
        self._weigh = weights_of if weigh is None else weigh
        self.n_candidates = params.n_candidates if params.n_candidates < vocab_size else 0
        self._takes_best = params.temperature == 0
        self._listed: StepResult | None = None  # a back end may give one again, with other elements
        self._best: memoryview
        rule = (params.top_k, params.temperature, params.top_p, params.min_p, params.seed, sequence, vocab_size)
        self._rule = rule if params.typical_p == 1 else None
        self._seen = self._counts = None
        if params.has_penalties:
            self._seen = np.zeros(vocab_size, np.bool_)
            self._seen[prompt] = True
            self._counts = np.zeros(vocab_size, np.float32)
        self._bias_ids = np.array(list(params.logit_bias), np.int64)
        self._bias = np.array(list(params.logit_bias.values()), np.float32)

    def choose(self, result: StepResult, row: int, position: int) -> tuple[int, TokenLogprob | None]:
        """The token of one row of a step's result, and its log-probabilities if they are asked for.

        A result with at least ``n_candidates`` candidates a row, or with full logits, gives the same token. Where candidates do
        not decide, the row's full logits are projected.
        Errors: NumericsError if the best logit is not finite.
        """
        if result is self._listed:
            return self._best[row], None
        params = self.params
        if result.ids is not None and result.values is not None:
            if self._takes_best:
                self._listed, self._best = result, result.ids[:, 0].data
                return self._best[row], None
            if result.draw is None or self._rule is None:
                return self._draw_listed(result.ids[row], result.values[row], position), None
            token = result.draw(row, position, *self._rule)
            if token >= 0:
                return token, None
            if result.project is None:
                raise NumericsError("logits are not finite", where=f"position {position - 1}")
            raw = result.project(row)
        elif result.logits is not None:
            raw = result.logits[row]
        else:
            raise ShapeError("a step's result", expected="logits or candidates", got="neither")
        if not math.isfinite(float(raw.max())):
            raise NumericsError("logits are not finite", where=f"position {position - 1}")
        adjusted = self._adjust(raw)
        if self._takes_best:
            token = int(np.argmax(adjusted))
        else:
            token = draw_full(adjusted, params, self._random_bits(position), self._weigh)
        self.remember(token)
        return token, None if params.logprobs is None else logprobs_of(raw, token, params.logprobs)

    def _draw_listed(self, ids: NDArray[np.int32], values: F32, position: int) -> int:
        """The token that a row's candidates give, where the back end does not draw."""
        k = self.n_candidates
        if self.params.cuts_a_tail:
            raise ShapeError("a step's result", expected="the weight of what is no candidate", got="candidates alone")
        if not math.isfinite(values.item(0)):
            raise NumericsError("logits are not finite", where=f"position {position - 1}")
        return draw(ids[:k], values[:k], self.params, self._random_bits(position), self._weigh)

    def remember(self, token: int) -> None:
        """Count a token of the output, where penalties need it; ``choose`` does so with its own."""
        if self._seen is not None and self._counts is not None:
            self._seen[token] = True
            self._counts[token] += 1

    @property
    def rest_temperature(self) -> float:
        """The temperature at which the weight of what is no candidate is needed, or 0."""
        return self.params.temperature if self.n_candidates and self.params.cuts_a_tail else 0.0

    def _random_bits(self, position: int) -> int:
        high, low, _, _ = philox(self.params.seed, self.sequence, position)
        return (high >> 5) << 26 | low >> 6

    def _adjust(self, logits: F32) -> F32:
        """Steps 1 to 3, on a copy where they change anything."""
        p = self.params
        if self._seen is not None and self._counts is not None:
            r = np.float32(p.repetition_penalty)
            logits = np.where(self._seen, np.where(logits > 0, logits / r, logits * r), logits)
            logits = logits - np.float32(p.frequency_penalty) * self._counts
            logits = logits - np.float32(p.presence_penalty) * (self._counts > 0).astype(np.float32)
        if len(self._bias):
            logits = logits.copy()
            logits[self._bias_ids] += self._bias
        return logits
