"""What int8 activations cost a linear layer: its output against float32 of the same weights on the unquantized activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tritium.bench.walk import TOKENS, Values, Walk
from tritium.errors import NumericsError
from tritium.formats.gguf import GGUFFile
from tritium.ir import Graph, Node
from tritium.numerics import F32


@dataclass(frozen=True, slots=True)
class LayerAccuracy:
    """One linear layer over all tokens.

    ``percent``: 100 · cosine of its output to that on float32 activations. ``error``: the norm of their difference over the
    norm of the latter.
    """

    name: str
    percent: float
    error: float


def linear_accuracy(graph: Graph, file: GGUFFile, ids: Sequence[int], logits: F32) -> tuple[LayerAccuracy, ...]:
    """Every linear layer of ``graph`` on a text. ``logits`` (T, V) f32 are those of the back end under judgment.

    The outputs are those of the NumPy walk, which have the back end's bits if its logits do.
    Errors: NumericsError if they do not.
    """
    walk = Walk(graph, file)
    values: Values = {TOKENS: np.array(ids, np.int32)}
    sources = {code: node.inputs[0] for node in graph.nodes if node.op == "quantize" for code in node.outputs}
    found = []
    for node in graph.nodes:
        walk.run((node,), values)
        if node.op == "linear":
            found.append(_compare(walk, node, values[sources[node.inputs[0]]], values[node.outputs[0]]))
        if node.op == "logits_projection" and values[node.outputs[0]].tobytes() != logits.tobytes():
            raise NumericsError("the back end's logits are not those of the reference", where=node.outputs[0])
    return tuple(found)


def _compare(walk: Walk, node: Node, x: F32, ours: F32) -> LayerAccuracy:
    trits, scales = walk.trits(node.weights[0])
    group = int(node.attrs["group"])
    weights = trits.astype(np.float32)
    weights = (
        (weights.reshape(len(trits), -1, group) * scales.reshape(len(trits), -1, 1)).reshape(trits.shape)
        if group
        else (weights * scales[0])
    )
    exact = (x @ weights.T).astype(np.float64)
    y = ours.astype(np.float64)
    sizes = np.linalg.norm(y) * np.linalg.norm(exact)
    percent = 100.0 if not y.any() and not exact.any() else 100 * float((y * exact).sum() / sizes) if sizes else 0.0
    return LayerAccuracy(node.weights[0], percent, float(np.linalg.norm(y - exact) / (np.linalg.norm(exact) or 1)))
