"""One run of the benchmarks: groups of engines, measured in rounds, checked, and their receipts written."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.engines import Contestant, Engine
from benchmarks.files import tensor_bytes
from benchmarks.quiet import STAT, Patience, others_percent, probe
from benchmarks.report import BANDWIDTH, BUSY, CONTROL, F32_PEAK, NEAR, PEAK, Load, Phase, phase_lines
from benchmarks.work import FOLDER, Group, View, Work
from tritium.backends import cpu
from tritium.bench.figures import REQUIRED, read_sample
from tritium.bench.stats import interleave
from tritium.engine.model import resolve_model
from tritium.formats.gguf import open_gguf
from tritium.receipts import jcs

PROBE_BYTES = 256 << 20  # most of the time of a probe goes into getting the memory
CHECK_TOKENS = 24  # two full tiles
OPS_TOKENS = 16
WARM_TOKENS = 16
RECEIPTS = "receipts"


@dataclass(slots=True)
class Session:
    """What a run collects; its receipts lie in ``folder``."""

    folder: Path
    n_threads: int
    only: frozenset[str] = frozenset()
    patience: Patience = field(default_factory=Patience)
    phases: list[Phase] = field(default_factory=list)
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)
    ops: list[dict[str, Any]] = field(default_factory=list)
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)
    receipts: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def wants(self, name: str) -> bool:
        """Whether a work or a row of this name is to be measured."""
        return not self.only or name in self.only


def say(text: str) -> None:
    """Progress goes to stderr, results to stdout."""
    print(text, file=sys.stderr, flush=True)


def show(lines: Iterable[str]) -> None:
    """Print a table at once: a run that is broken off has shown what it measured."""
    print("\n".join(lines), flush=True)


def slug(*parts: object) -> str:
    """A name for a file."""
    return re.sub(r"[^\w.]+", "-", "-".join(str(part) for part in parts)).strip("-")


def ternary_macs(path: Path) -> float:
    """Products of the ternary matrices a token."""
    with open_gguf(resolve_model(path)) as file:
        matrices = [t.shape for t in file.tensors.values() if len(t.shape) == 2 and t.name.startswith("blk.")]
    return float(sum(rows * columns for rows, columns in matrices))


def measure(session: Session, group: Group) -> None:
    """All works of a group, every engine loaded at once."""
    works = [work for work in group.works if session.wants(work.name)]
    if not works:
        return
    isa = group.isa or cpu.isas()[0]
    with ExitStack() as stack:
        running: dict[str, Engine] = {}
        for contestant in group.contestants:
            if all(contestant.name in w.without or (w.ours_only and contestant.is_peer) for w in works):
                continue
            log = FOLDER / f"{slug(contestant.name, isa, group.n_threads)}.log"
            try:
                running[contestant.name] = stack.enter_context(contestant.start(group.n_threads, log))
            except RuntimeError as error:
                if not contestant.is_peer:
                    raise
                session.missing.append(str(error))
                continue
            about = running[contestant.name].description
            session.engines.setdefault(contestant.name, {})[f"{isa}, {group.n_threads} threads"] = about
            say(f"{contestant.name}, {isa}, {group.n_threads} threads: loaded in {about['load_s']:.2f} s")
        if group.is_checked:
            check(session, running, group.n_threads)
        for work in works:
            phase = run_phase(session, work, running, group.n_threads, isa)
            session.phases.append(phase)
            show([*phase_lines(phase), ""])
        session.ops += [op_tables(running[view.engine], view, isa) for view in group.views if view.engine in running]
        session.rows.setdefault("memory", {}).update(
            {f"{name}, {works[-1].name}": engine.ask("memory") for name, engine in running.items()
             if not engine.contestant.is_peer and not group.is_checked}
        )  # fmt: skip


def run_phase(session: Session, work: Work, running: dict[str, Engine], n_threads: int, isa: str) -> Phase:
    """Interleave the limits and every engine, after one uncounted run of each; then write the receipts of ours."""
    taken = {
        name: engine for name, engine in running.items()
        if name not in work.without and not (work.ours_only and engine.contestant.is_peer)
    }  # fmt: skip
    answers: dict[str, dict[str, Any]] = {}
    tasks: dict[str, Callable[[], float]] = {
        BANDWIDTH: lambda: cpu.read_bandwidth(n_threads, PROBE_BYTES),
        PEAK: lambda: cpu.int8_peak(isa, n_threads),
        F32_PEAK: lambda: cpu.f32_peak(isa, n_threads),
    }
    others: list[float] = []
    if STAT.is_file():
        tasks[BUSY] = others.pop
    near, patience, kind = probe(isa, n_threads), session.patience, (isa, n_threads)

    def ready() -> None:
        if BUSY in tasks:
            others.append(others_percent())
        patience.wait(kind, near)

    def turn(engine: Engine, answers: dict[str, dict[str, Any]], keep: str | None) -> float:
        near()  # the threads of the one before go to sleep, and the cores stay busy: idle ones may come back beside others' work
        return speed(engine, work, answers, keep)

    keys = {name: slug(work.name, name, isa, n_threads) for name in taken}
    for i, (name, engine) in enumerate(taken.items()):
        if not work.is_fresh:
            speed(engine, replace(work, tokens=min(work.tokens, WARM_TOKENS)), {}, None)
        tasks[name] = partial(turn, engine, answers, keys[name])
        if i == (len(taken) - 1) // 2:
            tasks[NEAR] = near
    if work.is_controlled:
        tasks[CONTROL] = partial(turn, next(iter(taken.values())), {}, None)
    say(f"{work.name}, {isa}, {n_threads} threads: {len(taken)} engines")

    def counts(found: Mapping[str, float]) -> bool:
        if patience.counts(kind, found[NEAR], near()):
            return True
        for name, engine in taken.items():
            if not engine.contestant.is_peer:
                engine.ask("forget", work=keys[name])
        return False

    patience.begin()
    rounds = interleave(
        tasks, n_rounds=work.n_rounds, budget_ns=int(1e9 * work.budget_s), least=work.least,
        ready=ready, counts=counts,
    )  # fmt: skip
    loads = {name: load for name, engine in taken.items() if (load := load_of(engine, work, answers, taken))}
    heads = {name: engine.contestant.head for name, engine in taken.items()}
    theirs = frozenset(name for name, engine in taken.items() if engine.contestant.is_peer)
    files = write_receipts(session, taken, keys)
    return Phase(work.name, work.kind, n_threads, rounds, loads, heads, theirs, isa, files)


def speed(engine: Engine, work: Work, answers: dict[str, dict[str, Any]], keep: str | None) -> float:
    """Tokens a second of one run; the answer stays in ``answers``."""
    c, n = engine.contestant, work.tokens
    recorded: dict[str, Any] = {} if c.is_peer or keep is None else {"keep": keep}
    if work.kind == "batch":
        answer = engine.ask("batch", sequences=work.sequences, tokens=n, context=work.context, **recorded)
        n = answer["tokens"]
    elif work.kind == "decode":
        n = min(n, c.most_decoded)
        if engine.seed and not c.is_peer:
            recorded["seed"] = engine.seed
        answer = engine.ask("decode", tokens=n, context=work.context, **recorded)
    else:
        if work.is_fresh:
            engine.seed += 1
            recorded["seed"] = engine.seed
        answer = engine.ask("prefill", tokens=n, **recorded)
    answers[c.name] = answer
    return float(1e9 * n / sum(answer["ns"]))


def load_of(
    engine: Engine, work: Work, answers: dict[str, dict[str, Any]], taken: dict[str, Engine]
) -> Load | None:  # fmt: skip
    """What a token of the work costs an engine; of a peer its whole file, and the shape's products, which are ours."""
    c, answer = engine.contestant, answers[engine.contestant.name]
    n = work.tokens if work.kind == "prefill" else 1
    if not c.is_peer:
        macs = answer.get("macs_per_token") or ternary_macs(c.path)
        return Load(answer["bytes_per_token"], macs, answer.get("attention_macs", 0) / n)
    if not c.path.is_file():
        return None
    mine = next(name for name, other in taken.items() if not other.contestant.is_peer)
    attention = answers[mine].get("attention_macs", 0) / n
    return Load(tensor_bytes(c.path) / n, ternary_macs(c.path), attention)


def write_receipts(
    session: Session, taken: Mapping[str, Engine], keys: Mapping[str, str]
) -> dict[str, str]:  # fmt: skip
    """The receipt of the middle run of each of ours, judged: its file by engine. ``keys``: under which the runs are kept."""
    files: dict[str, str] = {}
    for name, engine in taken.items():
        if engine.contestant.is_peer:
            continue
        path = session.folder / RECEIPTS / f"{keys[name]}.json"
        engine.ask("receipt", work=keys[name], path=str(path.resolve()))
        sample = read_sample(path)
        files[name] = f"{RECEIPTS}/{path.name}"
        session.receipts[files[name]] = {
            "receipt_id": jcs.digest(sample.receipt),
            "verdict": sample.problem or "accepted",
            "required": REQUIRED,
        }
        if sample.problem is not None:
            session.failures.append(f"{files[name]}: {sample.problem}")
    return files


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
            with plain.start(session.n_threads, FOLDER / f"{slug(name, 'scalar')}.log") as other:
                known[f"scalar, {session.n_threads} threads"] = other.ask("hash", tokens=CHECK_TOKENS)["sha256"]


def op_tables(engine: Engine, view: View, isa: str) -> dict[str, Any]:
    """Counters by op of a run, with the limits measured beside it."""
    answer = engine.ask("ops", tokens=OPS_TOKENS, context=view.context, sequences=view.sequences, seed=engine.seed)
    return {"engine": view.engine, "title": view.title(isa), "tables": view.tables, **answer}
