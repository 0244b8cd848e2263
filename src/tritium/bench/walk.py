"""Walk a graph in NumPy, value by value: by the profile, or off it where a peer computes otherwise.

The ops are those of ``tritium.numerics``; a ``Variation`` exchanges one rule for a peer's, so that a gap can be shown to close.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tritium import numerics
from tritium.backends import TensorSource
from tritium.errors import ShapeError
from tritium.ir import Graph, Node
from tritium.layouts import LAYOUTS
from tritium.numerics import F32

Values: TypeAlias = dict[str, NDArray[Any]]

TOKENS = "tokens"
"""Name of the token ids among the values."""

BLOCK = 256
"""Activations that share a scale with ``scaling`` "block"."""

HEAD_ROWS = 8192


@dataclass(frozen=True, slots=True, eq=False)
class Variation:
    """Where a walk leaves the profile; None: nowhere.

    activation: the gate's function, "silu" or "relu2". scaling: activations in int8 by 127·(1/a) in place of 127/a
    ("reciprocal"), or with one scale for each 256 of a row ("block"), or not in int8 at all but rounded to float16 ("f16").
    cache: keys and values in "f32".
    tables: cos and sin (T, head_dim/2) of the tokens' positions, in place of the profile's.
    codes: codes and scales by name, in place of those that come out of the walk.
    """

    activation: Literal["relu2", "silu"] | None = None
    scaling: Literal["reciprocal", "block", "f16"] | None = None
    cache: Literal["f32"] | None = None
    tables: tuple[F32, F32] | None = None
    codes: Mapping[str, NDArray[Any]] | None = None

    def __or__(self, other: Variation) -> Variation:
        """Both; where both speak, the other one."""
        named = {field.name: getattr(other, field.name) for field in fields(other)}
        return replace(self, **{name: value for name, value in named.items() if value is not None})


PROFILE = Variation()


def keys_name(layer: int) -> str:
    """Name of a layer's rotated keys among the values: (T, n_kv_heads · head_dim)."""
    return f"{layer}.keys"


def values_name(layer: int) -> str:
    """Name of a layer's cached values among the values: (T, n_kv_heads · head_dim)."""
    return f"{layer}.values"


class Walk:
    """Evaluates nodes of a graph for one sequence of T tokens from position 0. Decoded weights are kept.

    By the profile the bits are those of every back end; under a variation the output head is summed in float64, which is faster.
    """

    def __init__(self, graph: Graph, source: TensorSource) -> None:
        self.graph = graph
        self._source = source
        self._trits: dict[str, tuple[NDArray[np.int8], F32]] = {}
        self._run = {
            "embedding": self._embedding,
            "rmsnorm": self._rmsnorm,
            "quantize": self._quantize,
            "linear": self._linear,
            "rope_kv": self._rope_kv,
            "attention": self._attention,
            "relu2_mul": self._gated,
            "silu_mul": self._gated,
            "add": self._add,
            "output_rows": self._output_rows,
            "logits_projection": self._logits,
        }

    def run(self, nodes: Iterable[Node], values: Values, variation: Variation = PROFILE) -> Values:
        """Evaluate nodes in order; they read from and write to ``values``, which is returned.

        A quantize node's outputs are codes (T, K) and scales (T, 1); with "block" scales (T, K/256), with "f16" floats and ones.
        """
        for node in nodes:
            if node.op != "select":
                self._run[node.op](node, values, variation)
        return values

    def forward(self, ids: NDArray[np.int32], variation: Variation = PROFILE) -> Values:
        """All values of the whole graph."""
        return self.run(self.graph.nodes, {TOKENS: ids}, variation)

    def block(self, layer: int) -> tuple[Node, ...]:
        """The nodes of a layer."""
        return tuple(node for node in self.graph.nodes if node.block == layer)

    def table(self, name: str, first: int, last: int) -> F32:
        """Rows of a tensor as f32."""
        info = self._source.tensors[name]
        layout = LAYOUTS[info.layout]
        row_bytes = layout.nbytes((1, info.shape[1]))
        data = self._source.data(name)[first * row_bytes : last * row_bytes]
        return layout.unpack(data, (last - first, info.shape[1]), where=name)

    def trits(self, name: str) -> tuple[NDArray[np.int8], F32]:
        """Trits (N, K) and scales: (1,) or (N, K/group)."""
        if name not in self._trits:
            info = self._source.tensors[name]
            data = self._source.data(name)
            trits, scales = LAYOUTS[info.layout].trits(data, info.shape, where=name, offset=info.offset)
            scale = self._source.scale(name)
            self._trits[name] = trits, scales if scale is None else np.array([scale])
        return self._trits[name]

    def _embedding(self, node: Node, values: Values, variation: Variation) -> None:
        rows = [self.table(node.weights[0], int(token), int(token) + 1)[0] for token in values[TOKENS]]
        values[node.outputs[0]] = np.stack(rows)

    def _rmsnorm(self, node: Node, values: Values, variation: Variation) -> None:
        info = self._source.tensors[node.weights[0]]
        gamma = LAYOUTS[info.layout].unpack(self._source.data(info.name), info.shape, where=info.name)
        values[node.outputs[0]] = numerics.rmsnorm(values[node.inputs[0]], gamma, node.attrs["eps"])

    def _quantize(self, node: Node, values: Values, variation: Variation) -> None:
        x = values[node.inputs[0]]
        q: NDArray[Any]
        if variation.codes is not None and node.outputs[0] in variation.codes:
            q, scale = (variation.codes[name] for name in node.outputs)
        elif variation.scaling == "block":
            q, scale = quantize_blocks(x)
        elif variation.scaling == "reciprocal":
            absmax = np.maximum(np.abs(x).max(axis=1, keepdims=True), numerics.MIN_ABSMAX)
            q = np.rint(x * (np.float32(1) / absmax * np.float32(127))).astype(np.int8)
            scale = absmax / np.float32(127)
        elif variation.scaling == "f16":
            q, scale = x.astype(np.float16), np.ones((len(x), 1), np.float32)
        else:
            q, one = numerics.quantize_activations(x, int(node.attrs["act_bits"]))
            scale = one[:, None]
        values[node.outputs[0]], values[node.outputs[1]] = q, scale

    def _linear(self, node: Node, values: Values, variation: Variation) -> None:
        q, scale = values[node.inputs[0]], values[node.inputs[1]]
        trits, scales = self.trits(node.weights[0])
        group = int(node.attrs["group"])
        if scale.shape[1] == 1 and q.dtype != np.float16:
            y = numerics.ternary_linear(q, scale[:, 0], trits, scales if group else scales[0], group)
        else:
            y = _blockwise_linear(q, scale, trits, scales, group)
        values[node.outputs[0]] = y

    def _rope_kv(self, node: Node, values: Values, variation: Variation) -> None:
        a = node.attrs
        heads, kv_heads, d, layer = (int(a[name]) for name in ("n_heads", "n_kv_heads", "head_dim", "layer"))
        style = "interleaved" if a["interleaved"] else "half"
        q, k, v = (values[name] for name in node.inputs)
        cos, sin = variation.tables or self._tables(len(q))
        values[node.outputs[0]] = numerics.apply_rope(q.reshape(-1, heads, d), cos, sin, style).reshape(q.shape)
        keys = numerics.apply_rope(k.reshape(-1, kv_heads, d), cos, sin, style).reshape(k.shape)
        keep = variation.cache == "f32"
        values[keys_name(layer)] = keys if keep else numerics.to_f16(keys)
        values[values_name(layer)] = v if keep else numerics.to_f16(v)

    def _attention(self, node: Node, values: Values, variation: Variation) -> None:
        a = node.attrs
        heads, kv_heads, d, layer = (int(a[name]) for name in ("n_heads", "n_kv_heads", "head_dim", "layer"))
        share = heads // kv_heads
        q = values[node.inputs[0]].reshape(-1, kv_heads, share, d)
        k = values[keys_name(layer)].astype(np.float32).reshape(-1, kv_heads, d)
        v = values[values_name(layer)].astype(np.float32).reshape(-1, kv_heads, d)
        out = np.stack([attend_all(q[:, g], k[:, g], v[:, g]) for g in range(kv_heads)], axis=1)
        values[node.outputs[0]] = out.reshape(-1, heads * d)

    def _gated(self, node: Node, values: Values, variation: Variation) -> None:
        name = variation.activation or node.op.removesuffix("_mul")
        function = {"relu2": numerics.relu2_mul, "silu": numerics.silu_mul}[name]
        values[node.outputs[0]] = function(values[node.inputs[0]], values[node.inputs[1]])

    def _add(self, node: Node, values: Values, variation: Variation) -> None:
        values[node.outputs[0]] = values[node.inputs[0]] + values[node.inputs[1]]

    def _output_rows(self, node: Node, values: Values, variation: Variation) -> None:
        values[node.outputs[0]] = values[node.inputs[0]]

    def _logits(self, node: Node, values: Values, variation: Variation) -> None:
        vocab, hidden = int(node.attrs["vocab"]), values[node.inputs[0]]
        out = np.empty((len(hidden), vocab), np.float32)
        for first in range(0, vocab, HEAD_ROWS):
            last = min(first + HEAD_ROWS, vocab)
            rows = self.table(node.weights[0], first, last)
            if variation is PROFILE:
                out[:, first:last] = numerics.project_logits(hidden, rows)
            else:
                out[:, first:last] = hidden.astype(np.float64) @ rows.astype(np.float64).T
        values[node.outputs[0]] = out

    def _tables(self, n: int) -> tuple[F32, F32]:
        c = self.graph.config
        return numerics.rope_tables(n, c.head_dim, c.rope_theta, c.rope_factors)


def quantize_blocks(x: F32) -> tuple[NDArray[np.int8], F32]:
    """Quantize activations to int8 with one scale for each 256 of a row, as llama.cpp does for ternary weights.

    e = the element of largest magnitude;  inv = −127/e;  q = min(rint(x·inv), 127);  scale = 1/inv; all 0 where e is 0.
    Shapes: x (T, K) f32 → q (T, K) i8, scale (T, K/256) f32. Errors: ShapeError if 256 does not divide K.
    Source: ggml's Q8_K.
    """
    if x.shape[1] % BLOCK:
        raise ShapeError("activations in blocks", expected=f"a multiple of {BLOCK}", got=x.shape[1])
    parts = x.reshape(len(x), -1, BLOCK)
    extreme = np.take_along_axis(parts, np.abs(parts).argmax(axis=2)[:, :, None], axis=2)
    inverse = np.divide(np.float32(-127), extreme, out=np.zeros_like(extreme), where=extreme != 0)
    q = np.minimum(np.rint(parts * inverse), np.float32(127)).astype(np.int8)
    scale = np.divide(np.float32(1), inverse, out=np.zeros_like(inverse), where=inverse != 0)
    return q.reshape(x.shape), scale[:, :, 0]


def attend_all(q: F32, keys: F32, values: F32) -> F32:
    """``numerics.attend`` for every token of a sequence at a time, the same bits: keys to come add +0 to every sum.

    Shapes: q (T, heads, d) f32, keys and values (T, d) f32 → (T, heads, d) f32.
    """
    n, heads, d = q.shape
    inv_sqrt = np.float32(1) / np.sqrt(np.float32(d))
    best = np.full((n, heads), -np.inf, np.float32)
    total, out = np.zeros((n, heads), np.float32), np.zeros((n, heads, d), np.float32)
    for start in range(0, n, numerics.ATTENTION_SPLIT):
        stop = min(start + numerics.ATTENTION_SPLIT, n)
        rows = q[start:]  # Earlier tokens do not see this split.
        s = np.zeros((n - start, heads, stop - start), np.float32)
        for i in range(d):
            s = s + rows[:, :, i : i + 1] * keys[None, None, start:stop, i]
        is_past = np.arange(start, stop)[None, None, :] <= np.arange(start, n)[:, None, None]
        s = np.where(is_past, s * inv_sqrt, np.float32(-np.inf))
        top = s.max(axis=2)
        p = np.where(is_past, numerics.exp(s - top[:, :, None]), np.float32(0))
        o = np.zeros((n - start, heads, d), np.float32)
        for j in range(stop - start):
            o = o + p[:, :, j : j + 1] * values[start + j]
        if start == 0:
            best, total, out = top, numerics.lane_sum(p), o
            continue
        higher = np.maximum(best[start:], top)
        a, b = numerics.exp(best[start:] - higher), numerics.exp(top - higher)
        total[start:] = a * total[start:] + b * numerics.lane_sum(p)
        out[start:] = a[:, :, None] * out[start:] + b[:, :, None] * o
        best[start:] = higher
    y: F32 = out / total[:, :, None]
    return y


def _blockwise_linear(q: NDArray[Any], scale: F32, trits: NDArray[np.int8], scales: F32, group: int) -> F32:
    """Σ_b acc_b · (scale_x[b] · scale_w[b]), summed over blocks in float64: a peer's own order is not reproduced."""
    n_blocks = max(scale.shape[1], scales.shape[1] if group else 1)
    width = q.shape[1] // n_blocks
    y = np.zeros((len(q), len(trits)))
    for b in range(n_blocks):
        columns = slice(b * width, (b + 1) * width)
        part = q[:, columns].astype(np.float64) @ trits[:, columns].T.astype(np.float64)
        of_x = scale[:, b if scale.shape[1] > 1 else 0].astype(np.float64)
        of_w = scales[:, b].astype(np.float64) if group else scales.astype(np.float64)
        y += part * (of_x[:, None] * of_w[None, :])
    return y.astype(np.float32)
