"""The matrix of the promise: what may run a model and how its work may be cut, and one row of it.

As a program it reads a list of rows from its input, runs each and prints its hash, on the native module that its argument names.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from covering import Row, all_rows, covering_rows

INSTRUCTION_SETS = ("reference", "avx512vnni", "avxvnni", "avx2", "scalar")
THREADS = (1, 2, 3, 5)
CHUNKS = (1, 7, 64, None)
BATCHES = (1, 3, 8)
LAYOUTS = {"2bit": "i2s", "1.6bit": "tq1"}


class Lengths(NamedTuple):
    """Lengths of a model's sequences, and how many tokens each begins with that the first one begins with as well."""

    total: tuple[int, ...]
    shared: tuple[int, ...]


# Across a split of the attention sum, cache blocks shared whole and in part, single tokens.
SMALL = Lengths((270, 150, 70, 33, 9, 7, 2, 1), (270, 130, 64, 20, 0, 7, 1, 0))
LARGE = Lengths((68, 67, 66, 5, 4, 3, 2, 1), (68, 65, 64, 3, 0, 2, 1, 0))
N_GENERATED = 3
UNGATED = ("silu_gqa_tied_head_dim_20", "llama_mha_untied_q6_k")
"""Models whose gates never close."""
BLOCK_SCALES = "block_scales"
"""The model of which each block of each ternary matrix has its own scale: one layout of panels, and nothing to leave out."""


def rows(models: tuple[str, ...], isas: tuple[str, ...], compilers: tuple[str, ...]) -> list[Row]:
    """All combinations; the reference has neither threads nor a compiler, nor a screened head, nor sparse layers, nor panels."""
    from tritium import _native
    from tritium.kernel_table import kernel_table

    here = {(isa, layout) for _, _, layout, isa, _, _ in _native.kernels()}
    lacking = {(row.isa, row.layout) for row in kernel_table() if row.isa in _native.isas()} - here
    factors = {
        "model": models, "isa": isas, "compiler": compilers, "threads": THREADS, "chunk": CHUNKS, "batch": BATCHES,
        "reuse": (False, True), "screen": (False, True), "sparse": (False, True),
        "layout": tuple(LAYOUTS),
    }  # fmt: skip
    once = (THREADS[0], compilers[0], False, False, "2bit")

    def possible(row: Row) -> bool:
        if row["isa"] == "reference":
            return (row["threads"], row["compiler"], row["screen"], row["sparse"], row["layout"]) == once
        if (row["isa"], LAYOUTS[str(row["layout"])]) in lacking:
            return False
        if row["model"] == BLOCK_SCALES and row["layout"] != "2bit":
            return False
        return not (row["sparse"] and row["model"] in (*UNGATED, BLOCK_SCALES))

    return all_rows(factors, possible)


def pairwise(models: tuple[str, ...], isas: tuple[str, ...], compilers: tuple[str, ...]) -> list[Row]:
    """Rows that try every pair of levels."""
    return covering_rows(rows(models, isas, compilers))


def run(path: Path, row: Row, lengths: Lengths, seed: int) -> tuple[str, int]:
    """Run a row; ``seed`` is that of its random mix.

    (hash of all logits and of what the engine generates, positions that were not forwarded because the cache held them).
    """
    # Not above: the environment and the native module must be chosen first.
    from forwarding import Mix, blocks_of, related_sequences, sha256
    from tritium import backends
    from tritium.backends.cpu import build_info
    from tritium.executor import Executor
    from tritium.formats.gguf import open_gguf
    from tritium.models import build_graph
    from tritium.plan import make_plan

    assert build_info()[0].split()[0] == row["compiler"], build_info()
    is_reference = row["isa"] == "reference"
    how: dict[str, Any] = {"chunk": row["chunk"], "reuse": row["reuse"]}
    batch, threads = int(str(row["batch"])), int(str(row["threads"]))
    if not is_reference:
        os.environ["TRITIUM_ISA"] = str(row["isa"])
    with open_gguf(path) as file:
        graph = build_graph(file)
        plan = make_plan(
            graph, backends.find("reference" if is_reference else "cpu"), max_tokens=300, max_outputs=300, max_context=320,
            head_screen="on" if row["screen"] else "off", ffn_sparsity="on" if row["sparse"] else "off",
            weight_layout="auto" if is_reference else str(row["layout"]),
        )  # fmt: skip
        sequences = related_sequences(graph.config.vocab_size, lengths.total, lengths.shared)
        with Executor(plan, file, n_threads=threads, kv_blocks=blocks_of(sequences) + len(sequences)) as executor:
            mix = Mix(executor, sequences, batch=batch, seed=seed, **how)
            logits = sha256(mix.run())
            text, n_cached = generate(executor, file, [s.tolist() for s in sequences[1:]], batch, how)
            if not is_reference:
                counts = executor.trace().counts
                assert {count.kernel.rsplit("_", 1)[1] for count in counts} == {row["isa"]}
                assert any(count.kernel.startswith("i2s_columns") and count.macs for count in counts) == row["sparse"]
                panels = "i2s_groups" if row["model"] == BLOCK_SCALES else LAYOUTS[str(row["layout"])]
                products = {count.kernel.rpartition("_")[0] for count in counts if "_gem" in count.kernel}
                assert {f"{panels}_gemv", f"{panels}_gemm"} == products - {
                    f"i2s_{part}_{name}" for part in ("columns", "rows") for name in ("gemv", "gemm")
                }
                assert any(count.kernel.startswith("rescore") and count.macs for count in counts) == row["screen"]
    return hashlib.sha256(f"{logits} {text}".encode()).hexdigest(), mix.n_reused + n_cached


def generate(executor: Any, file: Any, prompts: list[list[int]], batch: int, how: dict[str, Any]) -> tuple[str, int]:
    """What the engine generates from the first prompt, then from the others, ``batch`` of them at a time.

    With it, how many positions of the prompts it found in its cache.
    """
    from tritium.engine.generate import Engine
    from tritium.engine.sampling import SamplingParams
    from tritium.engine.tokenizer import Tokenizer

    engine = Engine(executor, Tokenizer.from_gguf(file), max_context=executor.plan.max_context, **how)
    facts, n_cached = [], 0
    numbered = list(enumerate(prompts))
    for group in [numbered[:1], *(numbered[i : i + batch] for i in range(1, len(prompts), batch))]:
        generations = [
            generation
            for i, prompt in group
            for generation in engine.submit(
                [prompt], SamplingParams(max_tokens=N_GENERATED, temperature=0.9, top_k=8, seed=i, ignore_eos=True),
                measure=True,
            )
        ]  # fmt: skip
        for result in engine.run(generations):
            facts.append((result.token_ids, result.logits_sha256))
            n_cached += result.n_cached
    return repr(facts), n_cached


def main() -> None:
    """Run the rows that stand in the input as JSON: [[path, row, lengths, seed], …]."""
    import native_builds

    if len(sys.argv) > 1:
        native_builds.use(Path(sys.argv[1]))
    for path, row, lengths, seed in json.load(sys.stdin):
        print(json.dumps(run(Path(path), row, Lengths(*lengths), seed)), flush=True)


if __name__ == "__main__":
    main()
