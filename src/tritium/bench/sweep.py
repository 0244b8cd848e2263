"""Speeds by the size of the work: prompts, generation, both, several sequences at once, after contexts of several lengths.

The executor is driven without sampler and text, as llama-bench drives its engine, and the columns are its columns.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import prod
from typing import Any

import numpy as np

from tritium.bench.benchmark import prompt_of
from tritium.bench.host import Host
from tritium.bench.stats import interleave, summarize
from tritium.engine.kv import block_bytes, blocks_for
from tritium.engine.model import Model, resolve_model
from tritium.errors import ShapeError
from tritium.executor import Executor
from tritium.formats.gguf import open_gguf
from tritium.models import build_graph
from tritium.types import Batch

FORMATS = ("md", "csv", "json", "jsonl")


@dataclass(frozen=True, slots=True)
class Task:
    """``n_sequences`` forward ``n_prompt`` tokens each and then generate ``n_gen``, behind ``n_depth`` that are not timed."""

    n_prompt: int
    n_gen: int
    n_depth: int = 0
    n_sequences: int = 1

    @property
    def name(self) -> str:
        """pp512, tg128, pp512+tg128; with @ the context before it and × the sequences."""
        parts = [f"pp{self.n_prompt}"] if self.n_prompt else []
        parts += [f"tg{self.n_gen}"] if self.n_gen else []
        behind = f" @ d{self.n_depth}" if self.n_depth else ""
        return "+".join(parts) + behind + (f" × {self.n_sequences}" if self.n_sequences > 1 else "")

    @property
    def n_tokens(self) -> int:
        """Tokens that are timed, of all sequences."""
        return self.n_sequences * (self.n_prompt + self.n_gen)

    @property
    def n_positions(self) -> int:
        """What the cache has to hold of one sequence."""
        return self.n_depth + self.n_prompt + self.n_gen


def tasks(
    prompts: Sequence[int], gens: Sequence[int], both: Sequence[tuple[int, int]], depths: Sequence[int],
    sequences: Sequence[int],
) -> list[Task]:  # fmt: skip
    """Every combination: prompts alone, generation alone, pairs of both; zero leaves out."""
    pairs = [(p, 0) for p in prompts if p] + [(0, n) for n in gens if n] + [pair for pair in both if any(pair)]
    return [Task(p, n, d, b) for d in depths for b in sequences for p, n in dict.fromkeys(pairs)]


def cache_bytes(path: str, i2s_layout: str, n_positions: int, n_sequences: int) -> int:
    """Bytes of cache that so many sequences of this length take in this model."""
    with open_gguf(resolve_model(path), i2s_layout=i2s_layout) as file:
        config = build_graph(file).config
    return block_bytes(config) * blocks_for(n_positions) * n_sequences


class Lanes:
    """Sequences side by side in an executor's cache, which nothing else uses meanwhile."""

    def __init__(self, executor: Executor, n_sequences: int, n_positions: int) -> None:
        each = blocks_for(n_positions)
        plan = executor.plan
        if n_sequences > min(plan.max_outputs, plan.max_tokens) or n_sequences * each > executor.kv_blocks:
            raise ShapeError("sequences at once", expected=f"up to {min(plan.max_outputs, executor.kv_blocks // each)}",
                             got=n_sequences)  # fmt: skip
        self._executor = executor
        self._tables = np.arange(n_sequences * each, dtype=np.int32).reshape(n_sequences, each)
        self._n = n_sequences
        self._position = 0

    def prompt(self, n_tokens: int) -> None:
        """Forward so many tokens of each sequence, in as few steps as the plan allows; candidates of the last ones."""
        plan = self._executor.plan
        tokens = np.concatenate(
            [np.array(prompt_of(plan.vocab_size, n_tokens, seed=lane), np.int32) for lane in range(self._n)]
        )
        positions = np.tile(np.arange(self._position, self._position + n_tokens, dtype=np.int32), self._n)
        slots = np.repeat(np.arange(self._n, dtype=np.int32), n_tokens)
        for start in range(0, len(tokens), plan.max_tokens):
            piece = slice(start, start + plan.max_tokens)
            last = np.flatnonzero(positions[piece] == self._position + n_tokens - 1).astype(np.int32)
            self._executor.step(Batch(tokens[piece], positions[piece], slots[piece], self._tables, last, 1))
        self._position += n_tokens

    def generate(self, n_tokens: int) -> None:
        """Decode so many tokens of each sequence, each the best one after the one before it."""
        tokens = np.array(
            [prompt_of(self._executor.plan.vocab_size, 1, seed=lane)[0] for lane in range(self._n)], np.int32
        )
        every = np.arange(self._n, dtype=np.int32)
        for position in range(self._position, self._position + n_tokens):
            positions = np.full(self._n, position, np.int32)
            ids = self._executor.step(Batch(tokens, positions, every, self._tables, every, 1)).ids
            if ids is not None:
                tokens = ids[:, 0].copy()
        self._position += n_tokens


@dataclass(frozen=True, slots=True)
class Row:
    """One test with so many threads: nanoseconds of each repetition."""

    task: Task
    n_threads: int
    samples_ns: tuple[int, ...]
    started: str

    @property
    def samples_ts(self) -> list[float]:
        """Tokens a second of each."""
        return [self.task.n_tokens * 1e9 / ns for ns in self.samples_ns]


def measure(model: Model, wanted: Sequence[Task], *, repetitions: int) -> list[Row]:
    """Run every test once without counting it, then all of them in rounds. Errors: ShapeError for one that does not fit."""
    executor = model.engine.executor
    for task in wanted:
        if task.n_positions > model.max_context:
            raise ShapeError(
                "tokens of a task", where=task.name, expected=f"up to {model.max_context}", got=task.n_positions
            )
        Lanes(executor, task.n_sequences, task.n_positions)
    started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for task in wanted:
        _run(executor, task)
    if not wanted:
        raise ShapeError("nothing to measure", expected="a prompt or tokens to generate")
    rounds = interleave(
        {str(i): lambda task=task: _run(executor, task) for i, task in enumerate(wanted)},  # type: ignore[misc]
        n_rounds=repetitions, least=repetitions, budget_ns=0,
    )  # fmt: skip
    return [
        Row(task, model.n_threads, tuple(int(ns) for ns in rounds.samples[str(i)]), started)
        for i, task in enumerate(wanted)
    ]


def _run(executor: Executor, task: Task) -> float:
    lanes = Lanes(executor, task.n_sequences, task.n_positions)
    if task.n_depth:
        lanes.prompt(task.n_depth)
    start = time.perf_counter_ns()
    if task.n_prompt:
        lanes.prompt(task.n_prompt)
    if task.n_gen:
        lanes.generate(task.n_gen)
    return float(time.perf_counter_ns() - start)


@dataclass(frozen=True, slots=True)
class About:
    """What a model is, for the columns."""

    filename: str
    kind: str
    size_bytes: int
    n_params: int
    backend: str
    max_tokens: int


def about(model: Model, filename: str, layout: str) -> About:
    """Read it from the open file."""
    tensors = model.file.tensors.values()
    n_params = sum(prod(t.shape) for t in tensors)
    billions = f"{n_params / 1e9:.2f}B" if n_params >= 1e8 else f"{n_params / 1e6:.2f}M"
    kind = f"{model.config.architecture} {billions} {layout}"
    return About(filename, kind, sum(t.nbytes for t in tensors), n_params, model.plan.backend, model.plan.max_tokens)


def records(rows: Iterable[Row], of: About, where: Host) -> Iterator[dict[str, Any]]:
    """One mapping a row, its keys those of llama-bench, ours behind them."""
    for row in rows:
        ts, ns = row.samples_ts, row.samples_ns
        spread = summarize(ts)
        yield {
            "build_commit": "unknown" if where.source is None else where.source.commit[:12],
            "cpu_info": where.machine.cpu or "unknown",
            "backends": of.backend.upper(),
            "model_filename": of.filename,
            "model_type": of.kind,
            "model_size": of.size_bytes,
            "model_n_params": of.n_params,
            "n_batch": of.max_tokens,
            "n_ubatch": of.max_tokens,
            "n_threads": row.n_threads,
            "type_k": "f16",
            "type_v": "f16",
            "n_prompt": row.task.n_prompt,
            "n_gen": row.task.n_gen,
            "n_depth": row.task.n_depth,
            "test_time": row.started,
            "avg_ns": round(statistics.fmean(ns)),
            "stddev_ns": round(statistics.stdev(ns)) if len(ns) > 1 else 0,
            "avg_ts": statistics.fmean(ts),
            "stddev_ts": statistics.stdev(ts) if len(ts) > 1 else 0.0,
            "samples_ns": list(ns),
            "samples_ts": ts,
            "test": row.task.name,
            "n_sequences": row.task.n_sequences,
            "isa": where.isas[0],
            "median_ts": spread.median,
            "mad_ts": spread.mad,
        }


def render(rows: Sequence[Mapping[str, Any]], form: str) -> str:
    """The records in one of ``FORMATS``. Errors: ShapeError for another one."""
    if form == "json":
        return json.dumps(list(rows), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if form == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    if form == "csv":
        out = io.StringIO()
        columns = [key for key in rows[0] if not key.startswith("samples_")]
        writer = csv.DictWriter(out, columns, extrasaction="ignore", quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()
    if form == "md":
        return "".join(f"{line}\n" for line in _markdown(rows))
    raise ShapeError("format", expected=" or ".join(FORMATS), got=form)


def _markdown(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    cells = [("model", "size", "params", "backend", "threads", "test", "t/s")]
    for row in rows:
        params = row["model_n_params"]
        cells.append((
            row["model_type"], f"{row['model_size'] / (1 << 20):.2f} MiB",
            f"{params / 1e9:.2f} B" if params >= 1e9 else f"{params / 1e6:.2f} M",
            row["backends"], str(row["n_threads"]), row["test"], f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}",
        ))  # fmt: skip
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    left = (0, 3)
    for n, line in enumerate(cells):
        texts = (t.ljust(w) if i in left else t.rjust(w) for i, (t, w) in enumerate(zip(line, widths, strict=True)))
        yield f"| {' | '.join(texts)} |"
        if n == 0:
            rules = ("-" * (w + 1) + ("-" if i in left else ":") for i, w in enumerate(widths))
            yield f"|{'|'.join(rules)}|"
