"""How fast a model runs here, held against what the machine reads and multiplies in the same minutes.

Decoding is bound by bytes, prefill by int8 products and, of long prompts, by the float32 products of attention. Every figure
comes from a clock or from the executor's counters; what cannot be measured is refused, never estimated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from tritium.backends import cpu
from tritium.bench.op_table import OpRow, Part, bytes_by_part, op_table, products_of
from tritium.bench.process import AnonymousPeak, Energy, forget_peak
from tritium.bench.sparsity import Sparsity, sparsity
from tritium.bench.stats import Summary, percentile, summarize
from tritium.engine.generation import GenerationResult
from tritium.engine.model import Model
from tritium.engine.observer import Observer
from tritium.engine.sampling import SamplingParams
from tritium.errors import ShapeError, UnsupportedError
from tritium.ir import Plan
from tritium.resources import Memory, memory
from tritium.types import Trace

PROBE_BYTES = 512 << 20
"""Read to measure the bandwidth; larger than the caches of most machines."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What ``n_threads`` reach together: 10⁹ bytes a second read, 10⁹ products a second of ``isa`` on registers."""

    n_threads: int
    isa: str
    read_bandwidth_gb_per_s: float
    int8_peak_gmac_per_s: float
    f32_peak_gmac_per_s: float

    def ns(self, n_bytes: float, int8_macs: float, f32_macs: float = 0) -> float:
        """The least time that reading and multiplying take, one beside the other; the two kinds of products follow each other."""
        products = int8_macs / self.int8_peak_gmac_per_s + f32_macs / self.f32_peak_gmac_per_s
        return max(n_bytes / self.read_bandwidth_gb_per_s, products)


def measure_limits(n_threads: int, probe_bytes: int = PROBE_BYTES) -> Limits:
    """Measure the machine with ``n_threads``: well below a second."""
    isa = cpu.isas()[0]
    bandwidth = cpu.read_bandwidth(n_threads, probe_bytes)
    return Limits(n_threads, isa, bandwidth, cpu.int8_peak(isa, n_threads), cpu.f32_peak(isa, n_threads))


@dataclass(frozen=True, slots=True)
class Run:
    """Prompts that ran together and what followed them; the counters up to the last one's first token, and from there on.

    ``joules``: what the processor packages took from the submission to the last token, None where no counter can be read.
    """

    results: tuple[GenerationResult, ...]
    prefill: Trace
    decode: Trace
    joules: float | None = None

    @property
    def result(self) -> GenerationResult:
        """What came of the first prompt."""
        return self.results[0]

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens chosen after the first prompt."""
        return self.result.token_ids

    @property
    def times(self) -> list[list[int]]:
        """Nanoseconds from the submission to every token of each prompt."""
        start = self.result.start_ns
        return [list(accumulate(r.token_ns, initial=r.start_ns - start))[1:] for r in self.results]

    @property
    def prefill_ns(self) -> int:
        """From the submission until every prompt has its first token."""
        return max(each[0] for each in self.times)

    @property
    def decode_ns(self) -> int:
        """From there to the last token."""
        return max(each[-1] for each in self.times) - self.prefill_ns

    @property
    def n_decoded(self) -> int:
        """Tokens in that time, of all prompts."""
        return sum(t > self.prefill_ns for each in self.times for t in each)

    @property
    def token_ns(self) -> tuple[int, ...]:
        """From token to token, within each sequence."""
        return tuple(ns for r in self.results for ns in r.token_ns[1:])


def greedy(n_tokens: int, seed: int = 42) -> SamplingParams:
    """Exactly ``n_tokens``, each the best one, whatever the model would end at."""
    return SamplingParams(max_tokens=n_tokens, seed=seed, ignore_eos=True)


def run(
    model: Model, prompt: Sequence[int], n_tokens: int, params: SamplingParams | None = None, *,
    observer: Observer | None = None, energy: Energy | None = None, measure: bool = False, decode_only: bool = False,
) -> Run:  # fmt: skip
    """Forward ``prompt`` and generate ``n_tokens``: ``run_together`` of one prompt."""
    return run_together(
        model, [prompt], n_tokens, params,
        observers=[observer], energy=energy, measure=measure, decode_only=decode_only,
    )  # fmt: skip


def run_together(
    model: Model, prompts: Sequence[Sequence[int]], n_tokens: int, params: SamplingParams | None = None, *,
    observers: Sequence[Observer | None] = (), energy: Energy | None = None, measure: bool = False, decode_only: bool = False,
) -> Run:  # fmt: skip
    """Forward prompts and generate ``n_tokens`` after each, greedily without ``params``, as ``Model.generate`` does.

    First tokens belong to the prefill. The counters are read right after the last of them, which falls into the next one's time.
    Errors: ShapeError for prompts or a number of tokens that do not fit; UnsupportedError for a prompt in the cache, as the
    second of two equal ones is, unless ``decode_only`` says that its prefill is not to be measured.
    """
    longest, most = max(map(len, prompts)), min(model.plan.max_outputs, model.plan.max_tokens)
    if longest + n_tokens > model.max_context:
        room = f"up to {max(model.max_context - longest, 0)} after {longest} of the prompt"
        raise ShapeError("tokens to generate", expected=room, got=n_tokens)
    if len(prompts) > most:
        raise ShapeError("sequences at once", expected=f"up to {most}", got=len(prompts))
    engine = model.engine
    before_uj = None if energy is None else energy.read()
    before = engine.counted()
    params = params or greedy(n_tokens)
    generations = engine.submit(prompts, params, observers=observers, measure=measure)
    while any(not g.n_generated and not g.is_ended for g in generations):
        engine.step()
    first = engine.counted()
    for generation in generations:
        while not generation.is_ended:
            engine.step()
    after_uj = None if energy is None else energy.read()
    last = engine.counted()
    results = tuple(g.result() for g in generations)
    n_cached = sum(r.n_cached for r in results)
    if n_cached and not decode_only:
        raise UnsupportedError("part of a prompt was in the cache: its prefill cannot be measured", got=n_cached)
    for result in results:
        if len(result.token_ids) != n_tokens:
            raise ShapeError("tokens to generate", expected=n_tokens, got=len(result.token_ids))
    joules = None if energy is None else energy.joules(before_uj, after_uj)
    return Run(results, first.since(before), last.since(first), joules)


def prompt_of(vocab_size: int, n: int, seed: int = 0) -> list[int]:
    """``n`` token ids, spread over the vocabulary, the same on every machine."""
    return [(2654435761 * (i + 1) + 40503 * seed) % vocab_size for i in range(n)]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What ``benchmark`` measured. Speeds and times are summaries over the repeats; percentiles are of all decoded tokens.
    ``prompt_tokens`` and ``tokens`` count those of all ``n_sequences`` that ran together, and so do the speeds.

    ``warmup_s`` is None without a warm-up. ``decode_limit_percent``: bytes a second over the bandwidth, ``prefill_limit_percent``
    the linears' products a second over the int8 peak, those that zeros spare included, ``prefill_bound_percent`` the least time
    of these and of attention's float32 products over the time that prefill took: all are medians of ratios to the limits
    measured in the same repeat, None for a back end that is not the native core. ``joules_per_token`` counts prompt and output;
    None where nothing can be read.
    """

    n_sequences: int
    prompt_tokens: int
    tokens: int
    load_s: float
    warmup_tokens: int
    warmup_s: float | None
    prefill_s: Summary
    prefill_tokens_per_s: Summary
    decode_s: Summary
    decode_tokens_per_s: Summary
    token_ms_percentiles: dict[str, float]
    bytes_per_token: float
    bytes_by_part: dict[Part, float]
    ffn_sparsity: Sparsity | None
    decode_gb_per_s: Summary
    decode_limit_percent: Summary | None
    prefill_gmac_per_s: Summary
    prefill_limit_percent: Summary | None
    prefill_bound_percent: Summary | None
    joules_per_token: Summary | None
    energy_why_not: str | None
    limits: tuple[Limits, ...]
    ops: tuple[OpRow, ...]
    memory: Memory
    peak_anonymous_bytes: int | None
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """The raw times of one repeat, in nanoseconds."""

    prefill_ns: int
    token_ns: tuple[int, ...]
    joules: float | None


@dataclass(frozen=True, slots=True)
class Workload:
    """What every repeat does: prompts that run together, and as many tokens after each as ``params`` ask for."""

    prompts: tuple[tuple[int, ...], ...]
    tokens: int
    params: SamplingParams
    warmup_tokens: int = 0
    repeats: int = 1

    def __post_init__(self) -> None:
        """Errors: ShapeError for sizes of which nothing can be measured."""
        if self.tokens < 2:
            raise ShapeError("tokens", expected="2 or more: the first belongs to the prefill", got=self.tokens)
        if self.repeats < 1 or self.warmup_tokens < 0:
            raise ShapeError(
                "repeats and warm-up", expected="1 or more, 0 or more", got=(self.repeats, self.warmup_tokens)
            )


def open_timed(open_model: Callable[[], Model]) -> tuple[Model, float, AnonymousPeak]:
    """Load a model; return it with the seconds that took and the most anonymous memory on the way."""
    start = time.perf_counter_ns()
    with AnonymousPeak() as peak:
        model = open_model()
    return model, (time.perf_counter_ns() - start) / 1e9, peak


def benchmark(
    model: Model, work: Workload, *, load_s: float, peak: AnonymousPeak, probe_bytes: int = PROBE_BYTES,
    observe: Callable[[], Observer] | None = None,
) -> tuple[Benchmark, list[Run]]:  # fmt: skip
    """Warm up, then run ``work`` as often as it says, the machine measured before each time; the runs in their order.

    ``observe`` makes the observer of each prompt of each run. Errors: ShapeError for sizes that do not fit.
    """
    warmup_s = None
    if work.warmup_tokens:
        start = time.perf_counter_ns()
        run_together(model, work.prompts, work.warmup_tokens)
        warmup_s = (time.perf_counter_ns() - start) / 1e9
    energy = Energy()
    peak.look()
    limits, runs = [], []
    for _ in range(work.repeats):
        if model.plan.backend == "cpu":
            limits.append(measure_limits(model.n_threads, probe_bytes))
            forget_peak()
        observers = [] if observe is None else [observe() for _ in work.prompts]
        runs.append(
            run_together(
                model,
                work.prompts,
                work.tokens,
                work.params,
                observers=observers,
                energy=energy,
                measure=observe is not None,
            )
        )
        peak.look()
    held = memory()
    return _summary(model.plan, work, load_s, warmup_s, runs, limits, energy, held, peak.peak_bytes), runs


def middle(runs: Sequence[Run]) -> int:
    """The index of the run in the middle by its decode time; of two middle ones, the slower."""
    return sorted(range(len(runs)), key=lambda i: runs[i].decode_ns)[len(runs) // 2]


def _summary(
    plan: Plan, work: Workload, load_s: float, warmup_s: float | None, runs: list[Run], limits: list[Limits],
    energy: Energy, held: Memory, peak_anonymous: int | None,
) -> Benchmark:  # fmt: skip
    decode_s = [r.decode_ns / 1e9 for r in runs]
    prefill_s = [r.prefill_ns / 1e9 for r in runs]
    n_prompt, n_sequences = sum(map(len, work.prompts)), len(work.prompts)
    tokens = n_sequences * work.tokens
    n_bytes = [r.decode.n_bytes for r in runs]
    products = [products_of(r.prefill, plan) for r in runs]
    read = [n / s / 1e9 for n, s in zip(n_bytes, decode_s, strict=True)]
    multiplied = [n / s / 1e9 for (n, _), s in zip(products, prefill_s, strict=True)]
    # Of a back end without limits there are none.
    bounds = [limit.ns(0, *counted) / 1e9 for limit, counted in zip(limits, products, strict=False)]
    i = middle(runs)
    rows = op_table(runs[i].decode, plan, limits[i] if limits else None)
    every_ms = [ns / 1e6 for r in runs for ns in r.token_ns]
    joules = [r.joules / (n_prompt + tokens) for r in runs if r.joules is not None]
    return Benchmark(
        n_sequences=n_sequences,
        prompt_tokens=n_prompt,
        tokens=tokens,
        load_s=load_s,
        warmup_tokens=work.warmup_tokens,
        warmup_s=warmup_s,
        prefill_s=summarize(prefill_s),
        prefill_tokens_per_s=summarize([n_prompt / s for s in prefill_s]),
        decode_s=summarize(decode_s),
        decode_tokens_per_s=summarize([r.n_decoded / s for r, s in zip(runs, decode_s, strict=True)]),
        token_ms_percentiles={f"p{p}": percentile(every_ms, p) for p in (50, 90, 95, 99)},
        bytes_per_token=n_bytes[i] / runs[i].n_decoded,
        bytes_by_part=bytes_by_part(rows),
        ffn_sparsity=sparsity(runs[i].decode),
        decode_gb_per_s=summarize(read),
        decode_limit_percent=_percent(read, [limit.read_bandwidth_gb_per_s for limit in limits]),
        prefill_gmac_per_s=summarize(multiplied),
        prefill_limit_percent=_percent(multiplied, [limit.int8_peak_gmac_per_s for limit in limits]),
        prefill_bound_percent=_percent(bounds, prefill_s[: len(limits)]),
        joules_per_token=summarize(joules) if joules else None,
        energy_why_not=energy.why_not,
        limits=tuple(limits),
        ops=tuple(rows),
        memory=held,
        peak_anonymous_bytes=peak_anonymous,
        samples=tuple(Sample(r.prefill_ns, r.token_ns, r.joules) for r in runs),
    )


def _percent(reached: Sequence[float], limits: Sequence[float]) -> Summary | None:
    if not limits:
        return None
    return summarize([100 * r / limit for r, limit in zip(reached, limits, strict=True)])
