"""Tritium as it is used: ``load`` and greedy generation, sampler and Python included. Arguments: file, threads, options to load.

Every timed run that is kept is recorded, without hashes of its activations, so that a receipt can tell of the very run that a
table shows.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from tritium.backends import cpu
from tritium.bench.benchmark import Limits, Run, greedy, measure_limits, middle, prompt_of, run, run_together
from tritium.bench.machine import read_machine
from tritium.bench.op_table import bytes_by_part, op_table, ops_of, products_of
from tritium.bench.sparsity import sparsity
from tritium.bench.stats import interleave
from tritium.engine.model import Model, load
from tritium.engine.sampling import SamplingParams
from tritium.evidence.record import bandwidth, build_batch_receipt
from tritium.evidence.recorder import Recorder, recorder
from tritium.receipts import schema
from tritium.resources import memory
from tritium.types import Pass, Trace

SAMPLERS = {
    "greedy": SamplingParams(ignore_eos=True),
    "temperature 0.8, top-k 40, top-p 0.95": SamplingParams(
        temperature=0.8, top_k=40, top_p=0.95, seed=1, ignore_eos=True
    ),
    "temperature 0.8, top-p 0.95": SamplingParams(temperature=0.8, top_p=0.95, seed=1, ignore_eos=True),
}


OPS_RUNS = 3
TURNS = 4  # in which a run is cut where some per cent of its time are to be seen
LIMITS = ("read_bandwidth_gb_per_s", "int8_peak_gmac_per_s", "f32_peak_gmac_per_s")


def typical(traces: Sequence[Trace]) -> Trace:
    """What steps of one kind counted together, each counter's time by its median: another's turn on a CPU is none of its cost."""
    values = np.sum([t.values for t in traces], axis=0)
    values[:, -1] = len(traces) * np.median([t.values[:, -1] for t in traces], axis=0)
    wall_ns = len(traces) * median(t.wall_ns for t in traces)
    n_steps, n_tokens = sum(t.n_steps for t in traces), sum(t.n_tokens for t in traces)
    return Trace(n_steps, n_tokens, int(wall_ns), traces[0].kernels, values)


class Kept(NamedTuple):
    """A run, its recorders, and the bandwidth right after it."""

    run: Run
    watches: Sequence[Recorder]
    probe: dict[str, Any] | None


class Subject:
    """A loaded model, and the recorded runs of each kind of work."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.kept: dict[str, list[Kept]] = {}

    def prompt(self, n: int, seed: int = 0) -> list[int]:
        """Token ids spread over the vocabulary."""
        return prompt_of(self.model.config.vocab_size, n, seed)

    def recorded(
        self, keep: str | None, prompts: Sequence[Sequence[int]], n_tokens: int, *, decode_only: bool = False
    ) -> Run:
        """A greedy run of prompts side by side, kept under a name if there is one."""
        watches = [] if keep is None else [recorder(self.model) for _ in prompts]
        for watch in watches:
            watch.is_traced = False
        done = run_together(
            self.model, prompts, n_tokens, observers=watches, measure=bool(watches), decode_only=decode_only
        )
        if keep is not None:
            # Bandwidth drifts within minutes: what was read in this run is judged by what could be read right after it.
            self.kept.setdefault(keep, []).append(Kept(done, watches, bandwidth(self.model, n_probes=1)))
        return done

    def decode(self, tokens: int, context: int, keep: str | None = None, seed: int = 0) -> dict[str, Any]:
        """Decode after a context, which may be in the cache: its own time does not count."""
        done = self.recorded(keep, [self.prompt(context, seed)], tokens + 1, decode_only=True)
        per_token = done.decode.n_bytes / tokens
        return {"ns": done.token_ns, "bytes_per_token": per_token, "cached": done.result.n_cached}

    def prefill(self, tokens: int, keep: str | None = None, seed: int = 0) -> dict[str, Any]:
        """Forward a prompt, up to its first token. Its bytes are those of weights: caches hold the keys and values."""
        done = self.recorded(keep, [self.prompt(tokens, seed)], 1)
        rows = op_table(done.prefill, self.model.plan, None)
        n_bytes = sum(row.bytes_per_token for row in rows if row.part in ("body", "head"))
        attention = products_of(done.prefill, self.model.plan)[1]
        return {"ns": [done.prefill_ns], "bytes_per_token": n_bytes, "attention_macs": attention}

    def batch(self, sequences: int, tokens: int, context: int, keep: str | None = None) -> dict[str, Any]:
        """Decode several sequences side by side: from the moment that all have their first tokens.

        Unlike a prompt's, each of their tokens needs all logits: a product for each weight of the head, as for each ternary one.
        """
        done = self.recorded(keep, [self.prompt(context, seed) for seed in range(sequences)], tokens + 1)
        n, ops = done.n_decoded, ops_of(self.model.plan)
        head = sum(c.macs for c in done.decode.counts if ops[c.step, c.kernel] in ("screen", "logits_projection"))
        return {
            "ns": [done.decode_ns],
            "tokens": n,
            "bytes_per_token": done.decode.n_bytes / n,
            "macs_per_token": (products_of(done.decode, self.model.plan)[0] + head) / n,
        }

    def forget(self, work: str) -> dict[str, Any]:
        """Keep the last run of a kind of work no longer."""
        self.kept[work].pop()
        return {}

    def receipt(self, work: str, path: str) -> dict[str, Any]:
        """Write the receipt of the middle run of a kind of work, the others its repeats; which one it is."""
        kept = self.kept.pop(work)
        runs = [one.run for one in kept]
        by_prefill = sorted(range(len(runs)), key=lambda i: runs[i].prefill_ns)[len(runs) // 2]
        i = middle(runs) if runs[0].token_ns else by_prefill
        done = runs[i]
        params, machine = greedy(len(done.token_ids)), asdict(read_machine())
        others = [other.results for j, other in enumerate(runs) if j != i]
        receipt = build_batch_receipt(
            self.model, done.results, kept[i].watches, params, machine=machine, probe=kept[i].probe, repeats=others
        )
        schema.write(receipt, Path(path))
        return {"index": i}

    def hash(self, tokens: int) -> dict[str, Any]:
        """The hash of all logits of a prompt, and whether the way that need not compute them all finds their best."""
        prompt = self.prompt(tokens)
        logits = self.model.logits(prompt)
        best = run(self.model, prompt, 1, decode_only=True).token_ids[0]
        is_best = best == int(logits[-1].argmax())
        return {"sha256": hashlib.sha256(logits.astype("<f4").tobytes()).hexdigest(), "is_best": is_best}

    def ops(self, tokens: int, context: int, sequences: int = 1, seed: int = 0) -> dict[str, Any]:
        """Counters by op, the byte budget, zeros of the feed-forward layers, and the memory that is held; limits beside them."""
        prompts = [self.prompt(context, seed + i) for i in range(sequences)]
        found: list[Limits] = []
        prefills: list[Trace] = []
        passes: list[Pass] = []
        model, engine = self.model, self.model.engine
        for _ in range(OPS_RUNS):
            found.append(measure_limits(model.n_threads))
            engine.watch = passes.append
            prefills.append(run_together(model, prompts, tokens + 1, decode_only=True).prefill)
            engine.watch = None
        of = replace(found[0], **{name: median(getattr(one, name) for one in found) for name in LIMITS})
        steps = [p for p in passes if p.n_tokens == p.n_outputs == sequences]
        decode = typical([p.trace for p in steps])
        rows, zeros = op_table(decode, model.plan, of), sparsity(decode)
        return {
            "limits": asdict(of),
            "decode": [asdict(row) for row in rows],
            "prefill": [asdict(row) for row in op_table(typical(prefills), model.plan, of)],
            "bytes_by_part": bytes_by_part(rows),
            "outside_executor_us": median(p.step_ns + p.rest_ns - p.trace.wall_ns for p in steps) / sequences / 1e3,
            "sparsity": None if zeros is None else asdict(zeros),
            "d_model": model.config.d_model,
            "vocab_size": model.config.vocab_size,
            "memory": asdict(memory()),
        }

    def overhead(self, tokens: int, context: int, rounds: int) -> dict[str, Any]:
        """Microseconds a token outside of the executor, by sampler; seconds of decoding without and with a receipt's hashes."""
        prompt = self.prompt(context)

        def outside_us(params: SamplingParams) -> float:
            done = run(self.model, prompt, tokens + 1, replace(params, max_tokens=tokens + 1), decode_only=True)
            return (sum(done.token_ns) - done.decode.wall_ns) / tokens / 1e3

        def decode_s(is_recorded: bool, is_traced: bool) -> float:
            watch = recorder(self.model) if is_recorded else None
            if watch is not None:
                watch.is_traced = is_traced
            return sum(run(self.model, prompt, tokens // TURNS + 1, observer=watch, decode_only=True).token_ns) / 1e9

        ways = {"unrecorded": (False, False), "recorded": (True, False), "with trace": (True, True)}
        samplers = {name: partial(outside_us, params) for name, params in SAMPLERS.items()}
        times = {name: partial(decode_s, *way) for name, way in ways.items()}
        budget_ns = 60 * 10**9
        return {
            "outside_us": interleave(samplers, n_rounds=rounds, budget_ns=budget_ns).samples,
            "decode_s": interleave(times, n_rounds=TURNS * rounds, budget_ns=budget_ns).samples,
        }

    def memory(self) -> dict[str, Any]:
        """Bytes that the process holds."""
        return asdict(memory())


def main() -> None:
    """Load, say so, then answer until the input ends."""
    options = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    start = time.perf_counter_ns()
    with load(sys.argv[1], threads=int(sys.argv[2]), **{"prefix_cache": False, **options}) as model:
        load_s = (time.perf_counter_ns() - start) / 1e9
        subject = Subject(model)
        run(model, subject.prompt(1), 1)
        about = {
            "load_s": load_s,
            "first_token_s": (time.perf_counter_ns() - start) / 1e9,
            "isa": cpu.isas()[0],
            "plan_hash": model.plan_hash,
            "threads": model.n_threads,
            "memory": subject.memory(),
        }
        print(json.dumps(about), flush=True)
        requests: dict[str, Callable[..., dict[str, Any]]] = {
            name: getattr(subject, name)
            for name in ("decode", "prefill", "batch", "forget", "receipt", "hash", "ops", "overhead", "memory")
        }
        for line in sys.stdin:
            request = json.loads(line)
            print(json.dumps(requests[request.pop("do")](**request)), flush=True)


if __name__ == "__main__":
    main()
