"""Valid inputs of the fuzzers, small, below the folder that is given: they mutate what already passes all checks."""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kernel_cases import Case
from kernel_checks import cases_of, lay_out, make_program
from tiny_models import TINY, metadata, write_tiny
from tritium import backends
from tritium.backends.cpu import isas
from tritium.formats.gguf import open_gguf
from tritium.formats.gguf_writer import GGUFWriter
from tritium.ir import Plan, encode_plan
from tritium.kernel_table import kernel_table
from tritium.layouts import I2S_LAYOUTS, LAYOUTS
from tritium.models import build_graph
from tritium.ops import OPS
from tritium.plan import make_plan

MOST_ROWS, MOST_WIDTH, MOST_BLOCKS = 64, 8, 64


def numbers(values: Sequence[int]) -> bytes:
    """A byte each, or after an escape two."""
    return b"".join(struct.pack("<B", x) if 0 <= x < 253 else struct.pack("<Bh", 253, x) for x in values)


def arguments(
    kv_blocks: int, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int], tables: Sequence[Sequence[int]],
    outputs: Sequence[int], top_k: int, logits: bool,
) -> bytes:  # fmt: skip
    """Step arguments as program_fuzzer.cpp reads them; candidates are asked for if there are any, else logits if ``logits``."""
    counts = struct.pack("<5B", kv_blocks, len(tokens), len(outputs), len(tables), len(tables[0]))
    return (
        b"STEP"
        + counts
        + numbers((top_k, 6 if top_k else int(logits)))
        + b"".join(map(numbers, (tokens, positions, slots, *tables, outputs)))
    )


def single_step(op: str, layout: str, isa: str, case: Case) -> bytes | None:
    """The plan and request of one case of the parity harness, if the fuzzer's numbers hold it."""
    n = max([case.t, *(len(x) for x in case.inputs)])
    plans: list[bytes] = []
    blocks: list[int] = []

    def keep(plan: Plan, weights: Any, kv_blocks: int, n_threads: int) -> Any:
        plans.append(encode_plan(plan, OPS))
        blocks.append(kv_blocks)

    make_program(op, layout, isa, case, n, lay_out(op, case, n), 1, keep)
    if n > MOST_ROWS or blocks[0] > MOST_BLOCKS or case.tables.shape[1] > MOST_WIDTH:
        return None
    rows = [[0] * n if x is None else x.tolist() for x in (case.tokens, case.positions, case.slots)]
    outputs = range(case.t) if case.outputs is None else case.outputs.tolist()
    return plans[0] + arguments(
        blocks[0], *rows, case.tables.tolist(), list(outputs), case.top_k, op == "logits_projection"
    )


def programs(folder: Path, models: Path) -> None:
    """Two steps of whole models, and one step of every kernel that runs here."""
    for name in ("relu2_mha_tied", "llama_mha_tied_f32"):
        with open_gguf(write_tiny(models / name, name)) as file:
            graph = build_graph(file)
            plan = make_plan(graph, backends.find("cpu"), max_tokens=4, max_outputs=2, max_context=70)
        one = arguments(4, (1, 2, 3), (0, 1, 64), (0, 0, 1), ((0, 1), (2, 3)), (1, 2), 2, True)
        (folder / f"model_{name}").write_bytes(encode_plan(plan, OPS) + one + one[5:])
    for row in kernel_table():
        if row.isa in isas():
            cases = [case for case in cases_of(row) if case.failure is None]
            seed = next(filter(None, (single_step(row.op, row.layout, row.isa, case) for case in cases)))
            (folder / row.id).write_bytes(seed)


def packs(folder: Path) -> None:
    """One and two tensors in each dialect."""
    rng = np.random.default_rng(3)
    for number, layout in enumerate((*I2S_LAYOUTS.values(), None)):
        for rows, cols in ((4, 128), (20, 64)):
            trits = rng.integers(-1, 2, (rows, cols), np.int8)
            data = (trits if layout is None else LAYOUTS[layout].pack_trits(trits, np.ones(1, np.float32))).tobytes()
            part = struct.pack("<qqIB", rows, cols, len(data), number) + data
            (folder / f"{number}_{rows}").write_bytes(part * (1 + rows // 20))


def files(folder: Path) -> None:
    """A header with a whole tokenizer, and a tensor in each layout."""
    rng = np.random.default_rng(4)
    with GGUFWriter(folder / "tokenizer") as file:
        for key, value in metadata(TINY["relu2_gqa_tied_chat"]).items():
            file.add(key, value)
    for name, layout in LAYOUTS.items():
        shape = (4, layout.block * -(-32 // layout.block))
        values = rng.standard_normal(shape, dtype=np.float32)
        with GGUFWriter(folder / name) as file:
            file.add("general.architecture", "llama")
            file.add("tokenizer.ggml.scores", np.arange(3, dtype=np.float32))
            file.declare("blk.0.weight", shape, name)
            file.write("blk.0.weight", layout.pack(np.sign(values) if layout.is_ternary else values))


def main() -> None:
    corpus = Path(sys.argv[1])
    for name in ("program", "pack", "gguf", "models"):
        (corpus / name).mkdir(parents=True, exist_ok=True)
    programs(corpus / "program", corpus / "models")
    packs(corpus / "pack")
    files(corpus / "gguf")


if __name__ == "__main__":
    main()
