"""The roofline of a run: engines by the products that they make of a byte, and a second, under the limits of their machine.

One mark for each work and engine with the best instruction set and the most threads, but for prompts that a longer one stands
for, and for the second head where it is hardly read.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.report import BANDWIDTH, PEAK, Phase
from benchmarks.targets import F16, Q6_K, Run
from benchmarks.work import INT8_KV, PROMPT
from tritium.bench.charts import Mark, machine_chart, standalone
from tritium.bench.stats import summarize
from tritium.errors import FormatError

OURS = {F16: "f16 head", Q6_K: "Q6_K head", INT8_KV: "int8 KV"}


def draw(run: Run, mark: str) -> str:
    """The picture as a file, ``mark`` in it. Errors: FormatError for a run without such a work."""
    chosen = [phase for phase in run.phases if (phase.n_threads, phase.isa) == (run.n_threads, run.isa)]
    marks = [one for phase in chosen for one in marks_of(phase)]
    if not marks:
        raise FormatError(
            "nothing to draw", where="results", expected="decoding, or a prompt longer than that of " + PROMPT.name
        )
    bandwidth = summarize([x for phase in chosen for x in phase.rounds.samples[BANDWIDTH]]).median
    peak = summarize([x for phase in chosen for x in phase.rounds.samples[PEAK]]).median
    return f"{standalone(machine_chart(marks, bandwidth, [(run.isa, peak)])).rstrip()}\n{mark}\n"


def marks_of(phase: Phase) -> Iterator[Mark]:
    """The engines of a phase whose bytes are known."""
    for name, load in phase.loads.items():
        is_ours = name not in phase.peers
        is_told = name in OURS and (phase.kind == "decode" or name != Q6_K) if is_ours else True
        if is_told and phase.name != PROMPT.name:
            rate = summarize(phase.rounds.samples[name]).median
            label = f"{phase.name}, {OURS[name] if is_ours else name}"
            yield Mark(label, load.macs_per_token / load.bytes_per_token, rate * load.macs_per_token / 1e9, is_ours)
