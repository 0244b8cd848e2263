"""How fast a model runs here, held against what the machine reads and multiplies in the same minutes.

Decoding is bound by bytes, prefill by int8 products. Every figure comes from a clock or from the executor's counters; what cannot
be measured is refused, never estimated.
"""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tritium.backends import cpu
from tritium.bench.stats import Summary, percentile, summarize
from tritium.engine.model import Model
from tritium.engine.sampling import SamplingParams
from tritium.errors import ShapeError, UnsupportedError
from tritium.ir import Plan
from tritium.types import Trace

PROBE_BYTES = 512 << 20
"""Read to measure the bandwidth; larger than the caches of most machines."""

Part = Literal["body", "head", "kv", "other"]
_PARTS: dict[str, Part] = {
    "linear": "body",
    "logits_projection": "head",
    "screen": "head",
    "shortlist": "head",
    "attention": "kv",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What ``n_threads`` reach together: 10⁹ bytes a second read, 10⁹ int8 products a second of ``isa`` on registers."""

    n_threads: int
    isa: str
    read_bandwidth_gb_per_s: float
    int8_peak_gmac_per_s: float

    def ns(self, n_bytes: float, int8_macs: float) -> float:
        """The least time that reading and multiplying take, one beside the other."""
        return max(n_bytes / self.read_bandwidth_gb_per_s, int8_macs / self.int8_peak_gmac_per_s)


def measure_limits(n_threads: int, probe_bytes: int = PROBE_BYTES) -> Limits:
    """Measure the machine with ``n_threads``: well below a second."""
    isa = cpu.isas()[0]
    return Limits(n_threads, isa, cpu.read_bandwidth(n_threads, probe_bytes), cpu.int8_peak(isa, n_threads))


@dataclass(frozen=True, slots=True)
class Run:
    """One prompt and what followed: nanoseconds to the first token, then from token to token; the counters of both phases."""

    token_ids: tuple[int, ...]
    prefill_ns: int
    token_ns: tuple[int, ...]
    prefill: Trace
    decode: Trace


def run(model: Model, prompt: Sequence[int], n_tokens: int) -> Run:
    """Forward ``prompt`` and generate ``n_tokens`` greedily, as ``Model.generate`` does; the executor's counters are reset.

    The first token belongs to the prefill. Errors: ShapeError for a prompt or a number of tokens that does not fit.
    """
    engine = model.engine
    executor = engine.executor
    executor.reset_trace()
    generation = engine.submit([prompt], SamplingParams(max_tokens=n_tokens, ignore_eos=True))[0]
    while not generation.n_generated and not generation.is_ended:
        engine.step()
    prefill = executor.trace()
    executor.reset_trace()
    while not generation.is_ended:
        engine.step()
    result = generation.result()
    if result.n_cached:
        raise UnsupportedError(
            "part of the prompt was in the cache: its prefill cannot be measured", got=result.n_cached
        )
    if len(result.token_ids) != n_tokens:
        raise ShapeError("tokens to generate", expected=f"up to {len(result.token_ids)}", got=n_tokens)
    return Run(result.token_ids, result.token_ns[0], result.token_ns[1:], prefill, executor.trace())


def prompt_of(vocab_size: int, n: int, seed: int = 0) -> list[int]:
    """``n`` token ids, spread over the vocabulary, the same on every machine."""
    return [(2654435761 * (i + 1) + 40503 * seed) % vocab_size for i in range(n)]


@dataclass(frozen=True, slots=True)
class OpRow:
    """What one kernel did for one op, all layers together, a token of the run (of a prompt, too).

    ``limit_percent``: the least time that its bytes and, of a linear, its int8 products take on this machine, over the time that
    it took; None if it is bound by neither.
    """

    op: str
    kernel: str
    part: Part
    calls_per_token: float
    us_per_token: float
    bytes_per_token: float
    macs_per_token: float
    macs_skipped_per_token: float
    gb_per_s: float
    gmac_per_s: float
    limit_percent: float | None


def op_table(trace: Trace, plan: Plan, limits: Limits) -> list[OpRow]:
    """The counters by op and kernel, the longest first. Errors: ShapeError for an empty trace."""
    if not trace.n_tokens:
        raise ShapeError("nothing was counted", expected="a step")
    ops = {(f"{s.block}.{s.label}" if s.block >= 0 else s.label): s.op for s in plan.steps}
    sums: dict[tuple[str, str, Part], list[int]] = {}
    for count in trace.counts:
        if not count.calls:
            continue
        key = re.sub(r"^\d+\.", "", count.step), count.kernel, _PARTS.get(ops[count.step], "other")
        total = sums.setdefault(key, [0] * 5)
        for i, value in enumerate((count.calls, count.ns, count.bytes, count.macs, count.macs_skipped)):
            total[i] += value
    rows = []
    for (op, kernel, part), (calls, ns, n_bytes, macs, skipped) in sums.items():
        least = limits.ns(n_bytes, macs if part == "body" else 0)
        n, spent = trace.n_tokens, max(ns, 1)
        rows.append(
            OpRow(
                op, kernel, part, calls / n, ns / n / 1e3, n_bytes / n, macs / n, skipped / n, n_bytes / spent, macs / spent,
                100 * least / spent if part != "other" else None,
            )
        )  # fmt: skip
    return sorted(rows, key=lambda row: -row.us_per_token)


def bytes_by_part(rows: Sequence[OpRow]) -> dict[Part, float]:
    """The byte budget of a token: ternary matrices, output head, key-value cache, everything else."""
    budget: dict[Part, float] = {"body": 0.0, "head": 0.0, "kv": 0.0, "other": 0.0}
    for row in rows:
        budget[row.part] += row.bytes_per_token
    return budget


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of this process: the most it held at once; now anonymous and file-backed, None where the system does not tell."""

    peak_bytes: int
    anonymous_bytes: int | None
    file_backed_bytes: int | None


def memory() -> Memory:
    """Read the process's memory from the operating system."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return Memory(peak, None, None)
    found = dict(re.findall(r"^(RssAnon|RssFile):\s+(\d+) kB$", status, re.MULTILINE))
    parts = [int(found[key]) * 1024 if key in found else None for key in ("RssAnon", "RssFile")]
    return Memory(peak, *parts)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What ``benchmark`` measured. Speeds and times are summaries over the repeats; percentiles are of all decoded tokens.

    ``decode_limit_percent``: bytes a second over the bandwidth, ``prefill_limit_percent``: the linears' products a second over
    the int8 peak, both as medians of ratios to the limits measured in the same repeat.
    """

    prompt_tokens: int
    tokens: int
    load_s: float
    prefill_s: Summary
    prefill_tokens_per_s: Summary
    decode_s: Summary
    decode_tokens_per_s: Summary
    token_ms_percentiles: dict[str, float]
    bytes_per_token: float
    bytes_by_part: dict[Part, float]
    decode_gb_per_s: Summary
    decode_limit_percent: Summary
    prefill_gmac_per_s: Summary
    prefill_limit_percent: Summary
    limits: tuple[Limits, ...]
    ops: tuple[OpRow, ...]
    memory: Memory


def benchmark(
    open_model: Callable[[], Model], *, prompt_tokens: int, tokens: int, repeats: int, probe_bytes: int = PROBE_BYTES
) -> Benchmark:
    """Load a model, run ``repeats`` prompts after one that is not counted, measuring the machine before each; closes the model.

    Errors: UnsupportedError for a back end without counters of what it read; ShapeError for sizes that do not fit.
    """
    if tokens < 2:
        raise ShapeError("tokens", expected="2 or more: the first belongs to the prefill", got=tokens)
    if prompt_tokens < 1 or repeats < 1:
        raise ShapeError("prompt tokens and repeats", expected="1 or more", got=(prompt_tokens, repeats))
    start = time.perf_counter_ns()
    with open_model() as model:
        load_s = (time.perf_counter_ns() - start) / 1e9
        if model.plan.backend != "cpu":
            raise UnsupportedError("only the cpu back end's limits can be measured", got=model.plan.backend)
        prompt = prompt_of(model.config.vocab_size, prompt_tokens)
        run(model, prompt, min(tokens, 4))
        limits, runs = [], []
        for _ in range(repeats):
            limits.append(measure_limits(model.n_threads, probe_bytes))
            runs.append(run(model, prompt, tokens))
        plan, held = model.plan, memory()
    decode_s = [sum(r.token_ns) / 1e9 for r in runs]
    prefill_s = [r.prefill_ns / 1e9 for r in runs]
    n_bytes = [sum(count.bytes for count in r.decode.counts) for r in runs]
    linears = {row.op for row in op_table(runs[0].prefill, plan, limits[0]) if row.part == "body"}
    macs = [sum(c.macs for c in r.prefill.counts if re.sub(r"^\d+\.", "", c.step) in linears) for r in runs]
    read = [n / s / 1e9 for n, s in zip(n_bytes, decode_s, strict=True)]
    multiplied = [n / s / 1e9 for n, s in zip(macs, prefill_s, strict=True)]
    middle = sorted(range(repeats), key=decode_s.__getitem__)[repeats // 2]
    rows = op_table(runs[middle].decode, plan, limits[middle])
    every_ms = [ns / 1e6 for r in runs for ns in r.token_ns]
    return Benchmark(
        prompt_tokens=prompt_tokens,
        tokens=tokens,
        load_s=load_s,
        prefill_s=summarize(prefill_s),
        prefill_tokens_per_s=summarize([prompt_tokens / s for s in prefill_s]),
        decode_s=summarize(decode_s),
        decode_tokens_per_s=summarize([(tokens - 1) / s for s in decode_s]),
        token_ms_percentiles={f"p{p}": percentile(every_ms, p) for p in (50, 90, 99)},
        bytes_per_token=n_bytes[middle] / (tokens - 1),
        bytes_by_part=bytes_by_part(rows),
        decode_gb_per_s=summarize(read),
        decode_limit_percent=summarize(
            [100 * r / limit.read_bandwidth_gb_per_s for r, limit in zip(read, limits, strict=True)]
        ),
        prefill_gmac_per_s=summarize(multiplied),
        prefill_limit_percent=summarize(
            [100 * r / limit.int8_peak_gmac_per_s for r, limit in zip(multiplied, limits, strict=True)]
        ),
        limits=tuple(limits),
        ops=tuple(rows),
        memory=held,
    )
