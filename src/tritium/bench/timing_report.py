"""A timing as a Markdown receipt and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tritium.bench import host
from tritium.bench.host import Host
from tritium.bench.timing import PHASES, Timing


@dataclass(frozen=True, slots=True)
class Setting:
    """What was timed, and when. ``layout`` is that of the ternary matrices in the file."""

    model: str
    model_sha256: str
    layout: str
    backend: str
    n_threads: int
    plan_hash: str
    prompt: str
    tokenizer: str
    started: str


def document(timing: Timing, setting: Setting, where: Host) -> dict[str, Any]:
    """Everything, for JSON."""
    return {"kind": "timing", **asdict(setting), **asdict(timing), "host": asdict(where)}


def markdown(timing: Timing, setting: Setting, where: Host, command: str) -> str:
    """Everything, to read."""
    return "\n".join(_lines(timing, setting, where, command)) + "\n"


def _lines(timing: Timing, setting: Setting, where: Host, command: str) -> Iterable[str]:
    plural = "" if timing.tokens == 1 else "s"
    yield f"# Where a token's time goes: {setting.layout}"
    yield ""
    yield f"Model `{setting.model}`, {setting.started}. Written by `{command}`."
    yield ""
    yield "## A decoded token"
    yield ""
    yield "| phase | µs | ms | % of total | least to greatest, µs |"
    yield "|---|---:|---:|---:|---|"
    for phase in PHASES:
        us, s = timing.us[phase], timing.spread[phase]
        yield f"| {phase} | {us:.1f} | {us / 1e3:.3f} | {timing.percent[phase]:.2f} | {s.low:.1f} to {s.high:.1f} |"
    yield f"| **total** | {timing.total_us:.1f} | {timing.total_us / 1e3:.3f} | 100.00 | |"
    yield ""
    yield f"{timing.tokens_per_second_total:.4g} tokens a second = 10⁶ / total."
    yield ""
    yield (f"Each figure is the median of {timing.iterations} iterations, of an iteration the mean of {timing.tokens} decoded "
           f"token{plural}; one iteration before them does not count. The total is the sum of the four medians.")  # fmt: skip
    yield ""
    yield "- embed: the lookup of the token's embedding."
    yield "- forward: everything else in the native core but the head: the layers, and the time between kernels."
    yield "- logits: the output head. sample: outside the native core: scheduling, the call, choosing the token, its text."
    yield ""
    yield "## The prompt"
    yield ""
    yield f"| phase | µs of all {timing.prompt_tokens} tokens |"
    yield "|---|---:|"
    for phase in PHASES:
        yield f"| {phase} | {timing.prefill_us[phase]:.1f} |"
    yield f"| **total**, to the first token | {timing.prefill_total_us:.1f} |"
    yield ""
    yield "## Raw lines"
    yield ""
    yield "Every step of every iteration that counts, as `BITNET_TRACE_TIMING=1` prints it:"
    yield ""
    yield "```text"
    yield from timing.lines
    yield "```"
    yield ""
    yield from _tables(timing, setting, where)


def _tables(timing: Timing, setting: Setting, where: Host) -> Iterable[str]:
    yield "## What was run"
    yield ""
    yield from table(
        [
            ("model", f"`{setting.model}`, sha256 `{setting.model_sha256}`"),
            ("ternary layout", setting.layout),
            ("tokenizer", setting.tokenizer),
            ("prompt", f"`{setting.prompt}`, {timing.prompt_tokens} tokens"),
            (
                "decoded",
                f"{timing.tokens} a run, greedily (temperature 0, seed 42); every iteration gave the same tokens",
            ),
            ("back end", f"{setting.backend}, {setting.n_threads} thread{'' if setting.n_threads == 1 else 's'}"),
            ("plan", f"`{setting.plan_hash}`"),
        ]
    )
    yield ""
    yield "## Host and build"
    yield ""
    yield from table(host.rows(where))


def table(rows: Iterable[tuple[str, str]]) -> Iterable[str]:
    """Rows of two cells as a Markdown table."""
    yield "| | |"
    yield "|---|---|"
    for name, text in rows:
        yield f"| {name} | {text.replace('|', chr(92) + '|')} |"
