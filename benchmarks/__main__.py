"""Measure the machine's limits, Tritium and its peers on the same weights, interleaved; print limit, ours, peer, ratio.

Numerics are checked in the same run: logits must have the same hash with every number of threads and with the scalar kernels.
Exit 0: measured and checked; 1: a check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.engines import Contestant, Engine
from benchmarks.files import model_file, tensor_bytes
from benchmarks.quiet import STAT, others_percent
from benchmarks.report import (
    BANDWIDTH,
    BUSY,
    CONTROL,
    F32_PEAK,
    NOT_ENGINES,
    PEAK,
    Load,
    Phase,
    budget_lines,
    op_lines,
    phase_lines,
)
from tritium.backends import cpu
from tritium.bench.benchmark import measure_limits
from tritium.bench.machine import read_machine
from tritium.bench.stats import interleave
from tritium.engine.model import DEMO, resolve_model
from tritium.formats.gguf import open_gguf

FOLDER = Path("build/bench")
PROBE_BYTES = 512 << 20
CHECK_TOKENS = 6
DECODE_CONTEXT = 8
OPS_CONTEXT, OPS_TOKENS = 128, 16
SETTLE_S = 0.03  # lets the threads of the one before go to sleep


@dataclass(frozen=True, slots=True)
class Work:
    """A kind of work: tokens of a prompt, or decoded; its rounds; and its share of the time."""

    name: str
    tokens: int
    is_decode: bool
    n_rounds: int
    share: float
    without: tuple[str, ...] = ()  # engines that would take most of the time
    least: int = 2


TRANSFORMERS = "transformers bf16 (dense)"
FULL = (
    Work("tg32", 32, True, 8, 0.3),
    Work("pp128", 128, False, 6, 0.3),
    Work("pp512", 512, False, 4, 0.4, ("llama.cpp tq2_0 f16", "llama.cpp tq1_0 q6_k", TRANSFORMERS)),
)
QUICK = (Work("tg16", 16, True, 4, 0.4), Work("pp128", 128, False, 3, 0.6))


@dataclass(slots=True)
class Session:
    """What a run collects."""

    threads: tuple[int, ...]
    budget_s: float
    phases: list[Phase] = field(default_factory=list)
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)
    ops: dict[str, dict[str, Any]] = field(default_factory=dict)
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def say(text: str) -> None:
    """Progress goes to stderr, results to stdout."""
    print(text, file=sys.stderr, flush=True)


def show(lines: Iterable[str]) -> None:
    """Print a table at once: a run that is broken off has shown what it measured."""
    print("\n".join(lines), flush=True)


def ours(quick: bool) -> list[Contestant]:
    """Tritium with both heads; in a quick run the embedded model and the shape with one."""
    if quick:
        path = model_file(FOLDER, "i2s", "f16", is_peer=False, say=say)
        return [
            Contestant("tritium f16", "tritium", path, "f16"),
            Contestant("tritium demo", "tritium", Path(DEMO), "f16"),
        ]
    return [
        Contestant(f"tritium {head}", "tritium", model_file(FOLDER, "i2s", head, is_peer=False, say=say), head)
        for head in ("f16", "q6_k")
    ]


def peers(llama_cpp: Path | None, transformers: Path | None) -> Iterable[Contestant]:
    """The peers whose environments exist."""
    if llama_cpp is not None:
        for layout, head in (("tq2_0", "f16"), ("tq2_0", "q6_k"), ("tq1_0", "q6_k")):
            path = model_file(FOLDER, layout, head, is_peer=True, say=say)
            yield Contestant(f"llama.cpp {layout} {head}", "llama_cpp", path, head, True, llama_cpp)
    if transformers is not None:
        yield Contestant(TRANSFORMERS, "transformers", Path("none"), "bf16", True, transformers, most_decoded=8)


def ternary_macs(path: Path) -> float:
    """Products of the ternary matrices a token."""
    with open_gguf(resolve_model(path)) as file:
        matrices = [t.shape for t in file.tensors.values() if len(t.shape) == 2 and t.name.startswith("blk.")]
    return float(sum(rows * columns for rows, columns in matrices))


def measure(session: Session, works: Sequence[Work], contestants: Sequence[Contestant], n_threads: int) -> None:
    """All works at one number of threads, every engine loaded at once."""
    with ExitStack() as stack:
        running: dict[str, Engine] = {}
        for contestant in contestants:
            log = FOLDER / f"{contestant.name.replace(' ', '-')}-{n_threads}.log"
            try:
                running[contestant.name] = stack.enter_context(contestant.start(n_threads, log))
            except RuntimeError as error:
                if not contestant.is_peer:
                    raise
                session.missing.append(str(error))
                continue
            about = running[contestant.name].description
            session.engines.setdefault(contestant.name, {})[str(n_threads)] = about
            say(f"{contestant.name}, {n_threads} threads: loaded in {about['load_s']:.2f} s")
        check(session, running, n_threads)
        for work in works:
            session.phases.append(run_phase(session, work, running, n_threads))
            show([*phase_lines(session.phases[-1]), ""])
        for name, engine in running.items():
            if not engine.contestant.is_peer:
                session.ops[f"{name}, {n_threads} threads"] = op_tables(engine, n_threads)


def run_phase(session: Session, work: Work, running: dict[str, Engine], n_threads: int) -> Phase:
    """Interleave the limits and every engine; one uncounted run before."""
    isa = cpu.isas()[0]
    taken = {name: engine for name, engine in running.items() if name not in work.without}
    loads: dict[str, Load] = {}
    tasks: dict[str, Callable[[], float]] = {
        BANDWIDTH: lambda: cpu.read_bandwidth(n_threads, PROBE_BYTES),
        PEAK: lambda: cpu.int8_peak(isa, n_threads),
        F32_PEAK: lambda: cpu.f32_peak(isa, n_threads),
    }
    if STAT.is_file():
        tasks[BUSY] = others_percent
    for name, engine in taken.items():
        answer = engine.ask("decode", tokens=4, context=DECODE_CONTEXT)
        path = engine.contestant.path
        if not engine.contestant.is_peer:
            loads[name] = Load(answer["bytes_per_token"], ternary_macs(path), attention_macs(engine, work))
        elif path.is_file():
            # The shape, and with it the products of attention, is ours.
            loads[name] = Load(
                float(tensor_bytes(path)), ternary_macs(path), next(iter(loads.values())).f32_macs_per_token
            )
        tasks[name] = partial(speed, engine, work)
    tasks[CONTROL] = tasks[next(iter(taken))]
    say(f"{work.name}, {n_threads} threads: {len(taken)} engines")
    weight = (1 / n_threads) / sum(1 / n for n in session.threads)
    budget_ns = int(1e9 * session.budget_s * work.share * weight)
    rounds = interleave(tasks, n_rounds=work.n_rounds, budget_ns=budget_ns, least=work.least)
    heads = {name: engine.contestant.head for name, engine in taken.items()}
    theirs = frozenset(name for name, engine in taken.items() if engine.contestant.is_peer)
    return Phase(work.name, work.is_decode, n_threads, rounds, loads, heads, theirs)


def attention_macs(engine: Engine, work: Work) -> float:
    """Float32 products of attention a token of the work's prompt; of decoding, where no limit is made of them, none."""
    if work.is_decode:
        return 0.0
    return float(engine.ask("prefill", tokens=work.tokens)["attention_macs"] / work.tokens)


def speed(engine: Engine, work: Work) -> float:
    """Tokens a second of one run."""
    time.sleep(SETTLE_S)
    n = work.tokens
    if work.is_decode:
        n = min(n, engine.contestant.most_decoded)
        answer = engine.ask("decode", tokens=n, context=DECODE_CONTEXT)
    else:
        answer = engine.ask("prefill", tokens=n)
    return float(1e9 * n / sum(answer["ns"]))


def check(session: Session, running: dict[str, Engine], n_threads: int) -> None:
    """Hashes of our logits with these threads and, once, with the scalar kernels; peers must give numbers that differ."""
    for name, engine in running.items():
        answer = engine.ask("hash", tokens=CHECK_TOKENS)
        if engine.contestant.is_peer:
            if not answer["is_sane"]:
                session.failures.append(f"{name}: logits are not finite or all the same")
            continue
        if not answer["is_best"]:
            session.failures.append(f"{name}, {n_threads} threads: the greedy token is not the best of the full logits")
        known = session.hashes.setdefault(name, {})
        known[f"{engine.description['isa']}, {n_threads} threads"] = answer["sha256"]
        if not any(key.startswith("scalar") for key in known):
            c = engine.contestant
            plain = Contestant(name, c.engine, c.path, c.head, environment={"TRITIUM_ISA": "scalar"})
            with plain.start(max(session.threads), FOLDER / f"{name.replace(' ', '-')}-scalar.log") as other:
                known[f"scalar, {max(session.threads)} threads"] = other.ask("hash", tokens=CHECK_TOKENS)["sha256"]


def op_tables(engine: Engine, n_threads: int) -> dict[str, Any]:
    """Counters by op of a run, with the limits measured right before it."""
    limits = measure_limits(n_threads, PROBE_BYTES)
    answer = engine.ask("ops", tokens=OPS_TOKENS, context=OPS_CONTEXT, limits=asdict(limits))
    return {**answer, "limits": asdict(limits)}


def report(session: Session) -> Iterable[str]:
    """What follows the tables of the phases: ops, numerics, what is missing or failed."""
    for name, ops in session.ops.items():
        yield from budget_lines(name, ops)
        yield from op_lines(f"decode by op · {name}, after {OPS_CONTEXT} tokens", ops["decode"])
        yield from op_lines(f"prefill by op · {name}, {OPS_CONTEXT} tokens", ops["prefill"])
        yield ""
    for name, hashes in session.hashes.items():
        verdict = "identical bits" if len(set(hashes.values())) == 1 else "DIFFERENT"
        yield f"numerics · {name}: {verdict} of {CHECK_TOKENS} tokens' logits with {'; '.join(hashes)}"
    for line in session.missing:
        yield f"NOT MEASURED: {line}"
    for line in session.failures:
        yield f"FAILED: {line}"


def document(session: Session, seconds: float) -> dict[str, Any]:
    """Everything raw, for a file."""
    machine = asdict(read_machine())
    del machine["flags"]
    phases = [
        {
            "name": phase.name, "threads": phase.n_threads, "rounds": phase.rounds.n_rounds, "is_cut": phase.rounds.is_cut,
            "tokens_per_s": {n: s for n, s in phase.rounds.samples.items() if n not in NOT_ENGINES},
            "control_tokens_per_s": phase.rounds.samples[CONTROL], "others_cpu_percent": phase.rounds.samples.get(BUSY),
            "read_bandwidth_gb_per_s": phase.rounds.samples[BANDWIDTH], "int8_peak_gmac_per_s": phase.rounds.samples[PEAK],
            "f32_peak_gmac_per_s": phase.rounds.samples[F32_PEAK],
            "loads": {name: asdict(load) for name, load in phase.loads.items()},
        }
        for phase in session.phases
    ]  # fmt: skip
    return {
        "machine": machine, "build": cpu.build_info(), "isa": cpu.isas()[0], "seconds": seconds, "phases": phases,
        "engines": session.engines, "ops": session.ops, "logits_sha256": session.hashes,
        "not_measured": session.missing, "failures": session.failures,
    }  # fmt: skip


def main() -> int:
    """Run it all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="ours and the limits only")
    parser.add_argument("--llama-cpp", type=Path, help="Python of an environment with llama-cpp-python")
    parser.add_argument("--transformers", type=Path, help="Python of an environment with transformers and torch")
    parser.add_argument("--budget-s", type=float, help="seconds of measuring [default: 600, quick 50]")
    parser.add_argument("--threads", help="numbers of threads [default: 1 and all]")
    parser.add_argument("--output", type=Path, default=FOLDER / "results.json")
    given = parser.parse_args()
    start = time.monotonic()
    every = len(os.sched_getaffinity(0))
    threads = tuple(int(n) for n in given.threads.split(",")) if given.threads else tuple(sorted({1, every}))
    session = Session(threads, given.budget_s or (50 if given.quick else 600))
    rivals: list[Contestant] = []
    if not given.quick:
        found = {
            name: place if place is not None and place.is_file() else None
            for name, place in (("llama.cpp", given.llama_cpp), ("transformers", given.transformers))
        }
        rivals = list(peers(found["llama.cpp"], found["transformers"]))
        session.missing += [f"{name}: no environment" for name, place in found.items() if place is None]
    contestants = [*ours(given.quick), *rivals]
    try:
        for n_threads in threads:
            measure(session, QUICK if given.quick else FULL, contestants, n_threads)
    except KeyboardInterrupt:
        session.failures.append("interrupted")
    for name, hashes in session.hashes.items():
        if len(set(hashes.values())) != 1:
            session.failures.append(f"{name}: logits differ between runs")
    show(report(session))
    data = document(session, time.monotonic() - start)
    given.output.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    show([f"{data['seconds']:.0f} s; raw samples in {given.output}"])
    return 1 if session.failures else 0


if __name__ == "__main__":
    sys.exit(main())
