"""Open a few positions of a trace, chosen after it was committed to: what a runner hands out, and how a verifier checks it.

Of an opened position the runner shows the quantized rows and the int32 accumulators of every ternary matrix. The verifier hashes
the rows, checks the accumulators by Freivalds' algorithm, and computes all that lies between exactly: each float island has to
end in the next row. Attention is opened in some layers: there the rows that keys and values of all earlier positions came from
are shown, too; in the others its result is taken from the row that follows it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritium import numerics
from tritium.errors import GateError, UnsupportedError
from tritium.evidence.freivalds import Accumulators, Probe, accumulate, is_product, make_probe
from tritium.evidence.trace import DIGEST
from tritium.formats.gguf import GGUFFile
from tritium.ir import Graph, Node
from tritium.layouts import LAYOUTS
from tritium.numerics import F32

Bytes = NDArray[np.uint8]
HEAD_ROWS = 8192


@dataclass(frozen=True, slots=True)
class Site:
    """A quantized row: its place among a token's, the name of its codes, where its bytes lie, and its width."""

    index: int
    name: str
    offset: int
    k: int


class Layout:
    """Where a graph's quantized rows and accumulators lie in what is handed out."""

    def __init__(self, graph: Graph) -> None:
        self.sites: dict[str, Site] = {}
        self.linears: dict[str, slice] = {}
        offset = width = 0
        for node in graph.nodes:
            if node.op == "quantize":
                if node.attrs["act_bits"] != 8:
                    raise UnsupportedError("opening", expected="8-bit activations", got=int(node.attrs["act_bits"]))
                k = int(node.attrs["k"])
                self.sites[node.outputs[0]] = Site(len(self.sites), node.outputs[0], offset, k)
                offset += k + 4
            elif node.op == "linear":
                if node.attrs["group"]:
                    raise UnsupportedError("opening", expected="one scale per tensor", got=int(node.attrs["group"]))
                n = int(node.attrs["n"])
                self.linears[node.outputs[0]] = slice(width, width + n)
                width += n
        self.row_bytes, self.accumulators = offset, width

    def codes(self, rows: Bytes, site: Site) -> tuple[NDArray[np.int8], F32]:
        """Codes (T, k) i8 and scales (T,) f32 of a site in rows (T, row_bytes)."""
        end = site.offset + site.k
        codes = np.ascontiguousarray(rows[:, site.offset : end]).view(np.int8)
        return codes, np.ascontiguousarray(rows[:, end : end + 4]).view("<f4")[:, 0]

    def digests(self, rows: Bytes) -> Bytes:
        """Digests (T, sites, 32) of rows (T, row_bytes)."""
        out = np.empty((len(rows), len(self.sites), DIGEST), np.uint8)
        for t, row in enumerate(rows):
            for s in self.sites.values():
                digest = hashlib.sha256(row[s.offset : s.offset + s.k + 4].tobytes()).digest()
                out[t, s.index] = np.frombuffer(digest, np.uint8)
        return out


class Weights:
    """Tensors of a model file, decoded when they are asked for; the probes of its matrices are kept."""

    def __init__(self, file: GGUFFile) -> None:
        self._file = file
        self._probes: dict[str, Probe] = {}

    def trits(self, name: str) -> NDArray[np.int8]:
        """A ternary matrix without its scale."""
        info = self._file.tensors[name]
        return LAYOUTS[info.layout].trits(self._file.data(name), info.shape, where=name, offset=info.offset)[0]

    def scale(self, name: str) -> np.float32:
        """The scale of a ternary matrix whose linear has one."""
        scale = self._file.scale(name)
        assert scale is not None, name
        return scale

    def probe(self, name: str) -> Probe:
        """The probe of a ternary matrix."""
        if name not in self._probes:
            self._probes[name] = make_probe(self.trits(name))
        return self._probes[name]

    def values(self, name: str, first: int | None = None, last: int = 0) -> F32:
        """A tensor of numbers, or some rows of it."""
        info = self._file.tensors[name]
        layout, data = LAYOUTS[info.layout], self._file.data(name)
        if first is None:
            return layout.unpack(data, info.shape, where=name, offset=info.offset)
        size = layout.nbytes((1, info.shape[1]))
        return layout.unpack(data[first * size : last * size], (last - first, info.shape[1]), where=name)


def attention_linears(graph: Graph, layer: int) -> tuple[str, list[Node]]:
    """The codes that keys and values of a layer come from, and the two linears, keys first."""
    rope = next(n for n in graph.nodes if n.op == "rope_kv" and n.block == layer)
    linears = [next(n for n in graph.nodes if n.outputs == (name,)) for name in rope.inputs[1:]]
    return linears[0].inputs[0], linears


def show(graph: Graph, weights: Weights, rows: Bytes, position: int, layers: list[int]) -> Iterator[tuple[str, Any]]:
    """What a runner hands out of a position, by name. Shapes: rows (positions, row_bytes) u8, up to ``position`` at least."""
    layout = Layout(graph)
    mine = rows[position : position + 1]
    out = np.empty((1, layout.accumulators), np.int32)
    for node in graph.nodes:
        if node.op == "linear":
            codes, _ = layout.codes(mine, layout.sites[node.inputs[0]])
            out[:, layout.linears[node.outputs[0]]] = accumulate(codes, weights.trits(node.weights[0]))
    yield f"{position}.rows", mine[0]
    yield f"{position}.accumulators", out[0]
    before = rows[:position]
    for layer in layers if position else []:
        source, linears = attention_linears(graph, layer)
        site = layout.sites[source]
        codes, _ = layout.codes(before, site)
        yield f"{position}.{layer}.rows", before[:, site.offset : site.offset + site.k + 4]
        yield f"{position}.{layer}.digests", layout.digests(before)
        for half, node in zip(("keys", "values"), linears, strict=True):
            yield f"{position}.{layer}.{half}", accumulate(codes, weights.trits(node.weights[0]))


class Check:
    """Checks one opened position against the columns of the trace; each failure is a GateError that says what is wrong.

    ``columns``: the trace's, of every position up to this one. ``rope``: cos and sin tables of as many positions.
    """

    def __init__(
        self, graph: Graph, weights: Weights, parts: Mapping[str, NDArray[Any]], columns: Mapping[int, bytes],
        rope: tuple[F32, F32],
    ) -> None:  # fmt: skip
        self._graph, self._weights, self._parts, self._columns, self._rope = graph, weights, parts, columns, rope
        self._layout = Layout(graph)
        self._heads = (graph.config.n_heads, graph.config.n_kv_heads, graph.config.head_dim)

    def position(self, position: int, token: int, layers: list[int]) -> F32:
        """Follow a token through the graph; return the row that the head multiplies, (1, d_model)."""
        layout = self._layout
        rows = self._part(f"{position}.rows", np.uint8, (layout.row_bytes,))[None]
        found = self._part(f"{position}.accumulators", np.int32, (layout.accumulators,))[None]
        self._check_column(position, layout.digests(rows)[0])
        known: dict[str, F32 | None] = {}
        for node in self._graph.nodes:
            if node.op == "logits_projection":
                hidden = known[node.inputs[0]]
                assert hidden is not None
                return hidden
            run: Callable[..., F32 | None] | None = getattr(self, f"_{node.op}", None)
            if run is None:
                raise UnsupportedError("opening", where=node.op)
            known[node.outputs[0]] = run(node, known, rows, found, position, token, layers)
        raise GateError("the graph has no head")

    def _part(self, name: str, kind: type, shape: tuple[int, ...]) -> NDArray[Any]:
        part = self._parts.get(name)
        if part is None or part.dtype != kind or part.shape != shape:
            got = "nothing" if part is None else f"{part.dtype} {part.shape}"
            raise GateError("opening", where=name, expected=f"{np.dtype(kind)} {shape}", got=got)
        return part

    def _check_column(self, position: int, digests: Bytes) -> None:
        if hashlib.sha256(digests.tobytes()).digest() != self._columns[position]:
            raise GateError("rows are not those of the trace", where=f"position {position}")

    def _embedding(self, node: Node, known: Any, rows: Any, found: Any, position: int, token: int, *_: Any) -> F32:
        return self._weights.values(node.weights[0], token, token + 1)

    def _rmsnorm(self, node: Node, known: Mapping[str, F32 | None], *_: Any) -> F32 | None:
        x = known[node.inputs[0]]
        if x is None:
            return None
        return numerics.rmsnorm(x, self._weights.values(node.weights[0]), node.attrs["eps"])

    def _quantize(self, node: Node, known: Mapping[str, F32 | None], rows: Bytes, *_: Any) -> None:
        x = known[node.inputs[0]]
        if x is None:
            return
        codes, scale = self._layout.codes(rows, self._layout.sites[node.outputs[0]])
        expected, expected_scale = numerics.quantize_activations(x)
        if not np.array_equal(codes, expected) or scale.tobytes() != expected_scale.tobytes():
            raise GateError("a float island does not lead to the next row", where=node.outputs[0])

    def _linear(self, node: Node, known: Any, rows: Bytes, found: Accumulators, *_: Any) -> F32:
        codes, scale = self._layout.codes(rows, self._layout.sites[node.inputs[0]])
        return self._product(node, codes, scale, found[:, self._layout.linears[node.outputs[0]]])

    def _product(self, node: Node, codes: NDArray[np.int8], scale: F32, z: Accumulators) -> F32:
        name = node.weights[0]
        if not is_product(self._weights.probe(name), codes, z):
            raise GateError("accumulators are not the product", where=name)
        y: F32 = z.astype(np.float32) * (scale * self._weights.scale(name))[:, None]
        return y

    def _rope_kv(
        self, node: Node, known: Any, rows: Any, found: Any, position: int, token: int, layers: list[int]
    ) -> F32 | None:
        if node.block not in layers:
            return None
        heads, kv_heads, d = self._heads
        q, k, v = (known[name] for name in node.inputs)
        keys, values = [k], [v]
        if position:
            earlier = self._earlier(node.block, position)
            keys, values = [earlier[0], k], [earlier[1], v]
        style = "interleaved" if node.attrs["interleaved"] else "half"
        cos, sin = (table[: position + 1] for table in self._rope)
        k_all = np.concatenate(keys).reshape(-1, kv_heads, d)
        self._cache = (
            numerics.to_f16(numerics.apply_rope(k_all, cos, sin, style)),
            numerics.to_f16(np.concatenate(values).reshape(-1, kv_heads, d)),
        )
        rotated = numerics.apply_rope(q.reshape(1, heads, d), cos[position:], sin[position:], style)
        return rotated.reshape(1, -1)

    def _earlier(self, layer: int, position: int) -> list[F32]:
        """Keys, not yet rotated, and values of all earlier positions: (position, n_kv_heads·head_dim) each."""
        source, linears = attention_linears(self._graph, layer)
        site = self._layout.sites[source]
        rows = self._part(f"{position}.{layer}.rows", np.uint8, (position, site.k + 4))
        digests = self._part(f"{position}.{layer}.digests", np.uint8, (position, len(self._layout.sites), DIGEST))
        for t in range(position):
            self._check_column(t, digests[t])
            if hashlib.sha256(rows[t].tobytes()).digest() != digests[t, site.index].tobytes():
                raise GateError("a key's row is not that of the trace", where=f"position {t}, layer {layer}")
        codes = np.ascontiguousarray(rows[:, : site.k]).view(np.int8)
        scales = np.ascontiguousarray(rows[:, site.k :]).view("<f4")[:, 0]
        out = []
        for half, node in zip(("keys", "values"), linears, strict=True):
            z = self._part(f"{position}.{layer}.{half}", np.int32, (position, int(node.attrs["n"])))
            out.append(self._product(node, codes, scales, z))
        return out

    def _attention(self, node: Node, known: Mapping[str, F32 | None], *_: Any) -> F32 | None:
        q = known[node.inputs[0]]
        if q is None:
            return None
        heads, kv_heads, d = self._heads
        groups = q.reshape(kv_heads, heads // kv_heads, d)
        keys, values = self._cache
        return np.concatenate([numerics.attend(groups[g], keys[:, g], values[:, g]) for g in range(kv_heads)]).reshape(
            1, -1
        )

    def _relu2_mul(self, node: Node, known: Mapping[str, Any], *_: Any) -> F32:
        return numerics.relu2_mul(*(known[name] for name in node.inputs))

    def _silu_mul(self, node: Node, known: Mapping[str, Any], *_: Any) -> F32:
        return numerics.silu_mul(*(known[name] for name in node.inputs))

    def _add(self, node: Node, known: Mapping[str, Any], *_: Any) -> F32:
        x, y = (known[name] for name in node.inputs)
        total: F32 = x + y
        return total

    def _output_rows(self, node: Node, known: Mapping[str, F32 | None], *_: Any) -> F32 | None:
        return known[node.inputs[0]]


def logits_of(graph: Graph, weights: Weights, hidden: F32) -> F32:
    """All logits of one row. Shapes: hidden (1, d_model) → (1, vocab_size)."""
    head = next(n for n in graph.nodes if n.op == "logits_projection").weights[0]
    vocab = graph.config.vocab_size
    pieces = range(0, vocab, HEAD_ROWS)
    return np.concatenate(
        [numerics.project_logits(hidden, weights.values(head, i, min(i + HEAD_ROWS, vocab))) for i in pieces], axis=1
    )
