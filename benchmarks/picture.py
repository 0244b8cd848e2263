"""The roofline of a run: engines by the products that they make of a byte, and a second, under the limits of their machine."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.report import BANDWIDTH, PEAK, Phase
from benchmarks.targets import F16, Q6_K, Run
from benchmarks.work import INT8_KV
from tritium.bench.charts import Mark, machine_chart, standalone
from tritium.bench.stats import summarize

OURS = {F16: "f16 head", Q6_K: "Q6_K head", INT8_KV: "int8 KV"}


def draw(run: Run, mark: str) -> str:
    """The picture as a file, ``mark`` in it. All phases with the most threads count."""
    chosen = [phase for phase in run.phases if phase.n_threads == run.n_threads]
    bandwidth = summarize([x for phase in chosen for x in phase.rounds.samples[BANDWIDTH]]).median
    peaks: dict[str, list[float]] = {}
    for phase in chosen:
        peaks.setdefault(phase.isa, []).extend(phase.rounds.samples[PEAK])
    ceilings = [(isa, summarize(samples).median) for isa, samples in peaks.items()]
    marks = [mark for phase in chosen for mark in marks_of(phase, phase.isa == run.isa)]
    return f"{standalone(machine_chart(marks, bandwidth, ceilings)).rstrip()}\n{mark}\n"


def marks_of(phase: Phase, is_best: bool) -> Iterator[Mark]:
    """The engines of a phase whose bytes are known; with another instruction set than the best one its name stands there, too."""
    for name, load in phase.loads.items():
        is_ours = name not in phase.peers
        if is_ours and name not in OURS:
            continue
        label = f"{phase.name}, {OURS[name] if is_ours else name}{'' if is_best else f', {phase.isa}'}"
        rate = summarize(phase.rounds.samples[name]).median
        yield Mark(label, load.macs_per_token / load.bytes_per_token, rate * load.macs_per_token / 1e9, is_ours)
