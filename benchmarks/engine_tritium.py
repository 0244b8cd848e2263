"""Tritium as it is used: ``load`` and greedy generation, sampler and Python included. Arguments: file, threads."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import asdict
from typing import Any

from tritium.backends import cpu
from tritium.bench.benchmark import Limits, bytes_by_part, op_table, products_of, prompt_of, run
from tritium.engine.model import Model, load
from tritium.resources import memory


def answer(model: Model, request: dict[str, Any]) -> dict[str, Any]:
    """``decode`` and ``prefill`` are timed; ``hash`` and ``ops`` are not."""
    do, vocab_size = request["do"], model.config.vocab_size
    if do == "hash":
        prompt = prompt_of(vocab_size, request["tokens"])
        logits = model.logits(prompt)
        best = run(model, prompt, 1).token_ids[0]  # the way that need not compute all logits
        is_best = best == int(logits[-1].argmax())
        return {"sha256": hashlib.sha256(logits.astype("<f4").tobytes()).hexdigest(), "is_best": is_best}
    if do == "prefill":
        done = run(model, prompt_of(vocab_size, request["tokens"]), 1)
        return {"ns": [done.prefill_ns], "attention_macs": products_of(done.prefill, model.plan)[1]}
    done = run(model, prompt_of(vocab_size, request["context"]), request["tokens"] + 1)
    if do == "decode":
        n_bytes = sum(count.bytes for count in done.decode.counts)
        return {"ns": done.token_ns, "bytes_per_token": n_bytes / request["tokens"]}
    if do == "ops":
        limits = Limits(**request["limits"])
        rows = op_table(done.decode, model.plan, limits)
        prefill = op_table(done.prefill, model.plan, limits)
        outside = (sum(done.token_ns) - done.decode.wall_ns) / request["tokens"]
        return {
            "decode": [asdict(row) for row in rows],
            "prefill": [asdict(row) for row in prefill],
            "bytes_by_part": bytes_by_part(rows),
            "outside_executor_us": outside / 1e3,
            "memory": asdict(memory()),
        }
    raise ValueError(f"unknown request {do!r}")


def main() -> None:
    """Load, say so, then answer until the input ends."""
    start = time.perf_counter_ns()
    with load(sys.argv[1], threads=int(sys.argv[2]), max_context=None, prefix_cache=False) as model:
        load_s = (time.perf_counter_ns() - start) / 1e9
        about = {"load_s": load_s, "isa": cpu.isas()[0], "plan_hash": model.plan_hash, "threads": model.n_threads}
        print(json.dumps(about), flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(model, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
