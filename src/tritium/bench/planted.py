"""Measure on a forward pass what a synthetic model should have planted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tritium.backends.reference import ReferenceBackend, ReferenceProgram
from tritium.executor import single_sequence
from tritium.formats.gguf import GGUFFile
from tritium.ir import Plan, Step
from tritium.layouts import LAYOUTS
from tritium.models import build_graph
from tritium.plan import make_plan
from tritium.types import Batch

MEASURED_ROWS = 4


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of a forward pass of random tokens.

    ``zero_trits``: share of zeros among the trits of all linear layers; ``zeros_before_down``: share of exact zeros among the
    products that enter ``down``, over all layers; ``zeros_by_layer``: the same for each layer; ``top_cosine``: mean cosine of the
    last rows' final hidden state with the head row of the largest logit; ``top_logit``: mean of that logit; ``largest_key``: the
    largest |key or value| in the cache.
    """

    n_tokens: int
    zero_trits: float
    zeros_before_down: float
    zeros_by_layer: tuple[float, ...]
    top_cosine: float
    top_logit: float
    largest_key: float


class _Probe(ReferenceProgram):
    """The reference, counting zeros in matrices and behind the gate. It drops each matrix after use, to stay small."""

    def __init__(self, plan: Plan, source: GGUFFile, kv_blocks: int) -> None:
        self.zeros: list[float] = []
        self.n_trits = self.n_zero_trits = 0
        super().__init__(plan, source, kv_blocks)

    def _gated(self, step: Step, batch: Batch) -> int:
        macs = super()._gated(step, batch)
        products = self._view(step.outputs[0], int(step.attrs["k"]))
        self.zeros.append(float((products == 0).mean()))
        return macs

    def _linear(self, step: Step, batch: Batch) -> int:
        macs = super()._linear(step, batch)
        trits, _ = self._decoded[step.choices[0].residents[0]]
        self.n_trits += trits.size
        self.n_zero_trits += trits.size - int(np.count_nonzero(trits))
        self._decoded.clear()
        return macs

    def largest_key(self) -> float:
        return float(max(np.abs(self._keys).max(), np.abs(self._values).max()))


def measure(file: GGUFFile, n_tokens: int = 64, seed: int = 1) -> Statistics:
    """Run ``n_tokens`` random tokens as one sequence through the reference back end.

    The statistics of the head are of the last ``MEASURED_ROWS`` positions. Errors: FormatError, UnsupportedError,
    NumericsError as a run of the model.
    """
    graph = build_graph(file)
    plan = make_plan(graph, ReferenceBackend(), max_tokens=n_tokens, max_context=n_tokens)
    n_blocks = -(-n_tokens // plan.kv_block)
    tokens = np.random.default_rng(seed).integers(0, plan.vocab_size, n_tokens, dtype=np.int32)
    batch = single_sequence(tokens, 0, np.arange(n_blocks, dtype=np.int32), all_outputs=True)
    rows = batch.outputs[-MEASURED_ROWS:]
    batch = Batch(batch.tokens, batch.positions, batch.slots, batch.block_tables, rows, top_k=1)
    probe = _Probe(plan, file, n_blocks)
    result = probe.step(batch)
    assert result.ids is not None
    assert result.values is not None
    projection = next(step for step in plan.steps if step.op == "logits_projection")
    hidden = probe.buffer(projection.inputs[0].buffer)[:, : graph.config.d_model]
    info = file.tensors["token_embd.weight" if graph.config.tied_head else "output.weight"]
    layout, row_bytes = LAYOUTS[info.layout], LAYOUTS[info.layout].nbytes((1, info.shape[1]))
    cosines = []
    for state, row, value in zip(hidden, result.ids[:, 0].tolist(), result.values[:, 0].tolist(), strict=True):
        data = file.data(info.name)[row * row_bytes : (row + 1) * row_bytes]
        head_row = layout.unpack(data, (info.shape[1],))
        cosines.append(value / float(np.linalg.norm(state) * np.linalg.norm(head_row)))
    return Statistics(
        n_tokens=n_tokens,
        zero_trits=probe.n_zero_trits / probe.n_trits,
        zeros_before_down=float(np.mean(probe.zeros)),
        zeros_by_layer=tuple(probe.zeros),
        top_cosine=float(np.mean(cosines)),
        top_logit=float(result.values.mean()),
        largest_key=probe.largest_key(),
    )
