"""Where the time of a token goes: looking up its embedding, the layers, the head, and choosing the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tritium.bench.benchmark import greedy
from tritium.bench.op_table import ops_of
from tritium.bench.stats import Summary, summarize
from tritium.engine.model import Model
from tritium.errors import NumericsError, ShapeError, UnsupportedError
from tritium.ir import Plan
from tritium.ops import STAGES
from tritium.types import Pass

Phase = Literal["embed", "forward", "logits", "sample"]
PHASES: tuple[Phase, ...] = ("embed", "forward", "logits", "sample")
LEAST_ITERATIONS = 3


def phases_ns(done: Pass, plan: Plan) -> dict[Phase, int]:
    """Nanoseconds of a step by phase; their sum is the step's whole time.

    ``embed`` and ``logits`` are the ops of those names as the executor timed them, ``forward`` is what else passed inside the
    native core, ``sample`` what passed outside: scheduling, the call, choosing the token, making its text.
    """
    ops = ops_of(plan)
    counted = {"embed": 0, "forward": 0, "logits": 0}
    for c in done.trace.counts:
        counted[STAGES.get(ops[c.step, c.kernel], "forward")] += c.ns
    embed, logits = counted["embed"], counted["logits"]
    inside = max(done.trace.wall_ns, embed + logits)
    sample = max(done.step_ns - inside, 0) + done.rest_ns
    return {"embed": embed, "forward": inside - embed - logits, "logits": logits, "sample": sample}


def timing_line(done: Pass, plan: Plan) -> str:
    """One step in one line, in microseconds."""
    ns = phases_ns(done, plan)
    parts = [f"{phase}_us={ns[phase] / 1e3:.1f}" for phase in PHASES]
    return f"timing: {' '.join(parts)} total_us={sum(ns.values()) / 1e3:.1f} tokens={done.n_tokens}"


@dataclass(frozen=True, slots=True)
class Passes:
    """The steps of one generation: those that forward the prompt, then one for each further token."""

    prefill: tuple[Pass, ...]
    decode: tuple[Pass, ...]
    token_ids: tuple[int, ...]


def follow(model: Model, prompt: Sequence[int], n_tokens: int) -> Passes:
    """Forward a prompt, then decode ``n_tokens`` greedily, a step each, and keep what every step took.

    The prompt's last step brings the first token, so that one token more is generated. Errors: ShapeError for what does not fit;
    UnsupportedError for a back end that counts nothing.
    """
    if model.plan.backend == "null":
        raise UnsupportedError("nothing to time", where="back end null", expected="a back end that computes")
    if n_tokens < 1 or len(prompt) + n_tokens + 1 > model.max_context:
        room = max(model.max_context - len(prompt) - 1, 0)
        raise ShapeError("tokens to decode", expected=f"1 to {room} after {len(prompt)} of the prompt", got=n_tokens)
    engine = model.engine
    seen: list[Pass] = []
    before, engine.watch = engine.watch, seen.append
    try:
        result = engine.run(engine.submit([prompt], greedy(n_tokens + 1)))[0]
    finally:
        engine.watch = before
    n_prefill = len(seen) - n_tokens
    return Passes(tuple(seen[:n_prefill]), tuple(seen[n_prefill:]), result.token_ids)


@dataclass(frozen=True, slots=True)
class Timing:
    """What ``timing`` measured. ``us`` and ``prefill_us`` are medians over the iterations.

    ``us``: microseconds a decoded token, of an iteration the mean of its tokens; ``total_us`` is the sum of the four, ``percent``
    their shares of it, ``tokens_per_second_total`` 10⁶ / ``total_us``. ``prefill_us``: the whole prompt, up to the first token.
    ``lines``: every step of every iteration that counts.
    """

    prompt_tokens: int
    tokens: int
    iterations: int
    us: dict[Phase, float]
    percent: dict[Phase, float]
    total_us: float
    tokens_per_second_total: float
    spread: dict[Phase, Summary]
    prefill_us: dict[Phase, float]
    prefill_total_us: float
    lines: tuple[str, ...]


def timing(model: Model, prompt: Sequence[int], *, tokens: int, iterations: int) -> Timing:
    """Time ``iterations`` runs after one that does not count.

    Errors: ShapeError for fewer than three iterations; NumericsError if they do not give the same tokens.
    """
    if iterations < LEAST_ITERATIONS:
        raise ShapeError("iterations", expected=f"at least {LEAST_ITERATIONS}: medians are reported", got=iterations)
    follow(model, prompt, tokens)
    runs = [follow(model, prompt, tokens) for _ in range(iterations)]
    if len({run.token_ids for run in runs}) != 1:
        raise NumericsError("the iterations give different tokens", expected="equal ones")
    plan = model.plan
    spread = _medians([_sum(run.decode, plan, tokens) for run in runs])
    prefill = _medians([_sum(run.prefill, plan, 1) for run in runs])
    us = {phase: spread[phase].median for phase in PHASES}
    total = sum(us.values())
    return Timing(
        prompt_tokens=len(prompt),
        tokens=tokens,
        iterations=iterations,
        us=us,
        percent={phase: 100 * us[phase] / total for phase in PHASES},
        total_us=total,
        tokens_per_second_total=1e6 / total,
        spread=spread,
        prefill_us={phase: prefill[phase].median for phase in PHASES},
        prefill_total_us=sum(summary.median for summary in prefill.values()),
        lines=tuple(timing_line(done, plan) for run in runs for done in (*run.prefill, *run.decode)),
    )


def _sum(passes: Sequence[Pass], plan: Plan, n: int) -> dict[Phase, float]:
    """Microseconds of all steps together by phase, over n."""
    rows = [phases_ns(done, plan) for done in passes]
    return {phase: sum(row[phase] for row in rows) / n / 1e3 for phase in PHASES}


def _medians(rows: Sequence[Mapping[Phase, float]]) -> dict[Phase, Summary]:
    return {phase: summarize([row[phase] for row in rows]) for phase in PHASES}
