"""Build a Graph: the vocabulary in which a model file describes its forward pass, and the hash of what it described."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import NamedTuple

from tritium.errors import FormatError, ShapeError, UnsupportedError
from tritium.ir import Domain, Graph, Node, Value, Weight
from tritium.layouts import LAYOUTS
from tritium.numerics import PROFILE
from tritium.ops import CACHES, INT8
from tritium.types import ModelConfig, TensorInfo


class Quantized(NamedTuple):
    """Integer activations and their scale per row."""

    q: str
    scale: str


class GraphBuilder:
    """Records ops in order. Activations are named values; weights are checked against the file as they are used.

    Inside ``block(i)`` a weight named ``attn_q`` means the tensor ``blk.<i>.attn_q.weight``.
    """

    def __init__(self, config: ModelConfig, tensors: Mapping[str, TensorInfo]) -> None:
        self.config = config
        self._tensors = tensors
        self._values: dict[str, Value] = {}
        self._weights: dict[str, Weight] = {}
        self._nodes: list[Node] = []
        self._block = -1

    @contextmanager
    def block(self, index: int) -> Iterator[None]:
        """Name weights and values within layer ``index``."""
        self._block = index
        yield
        self._block = -1

    def embedding(self, table: str) -> str:
        """Rows of the table for the batch's tokens: (T, d_model) f32."""
        c = self.config
        weight = self._weight(table, (c.vocab_size, c.d_model))
        out = self._value("x", c.d_model)
        self._node("embedding", (), (out,), (weight,), k=c.d_model, vocab=c.vocab_size)
        return out

    def rmsnorm(self, x: str, gamma: str) -> str:
        """Normalize each row and multiply by gamma."""
        v = self._values[x]
        weight = self._weight(gamma, (v.width,))
        out = self._value(gamma, v.width, domain=v.domain)
        self._node("rmsnorm", (x,), (out,), (weight,), k=v.width, eps=self.config.norm_eps)
        return out

    def quantize(self, x: str) -> Quantized:
        """Quantize each row to ``act_bits`` bits with one scale."""
        v = self._values[x]
        bits = self.config.act_bits
        q = self._value(f"{_short(x)}.q", v.width, "i8" if bits <= 8 else "i16")
        scale = self._value(f"{_short(x)}.scale", 1)
        self._node("quantize", (x,), (q, scale), (), k=v.width, act_bits=bits)
        return Quantized(q, scale)

    def linear(self, x: Quantized, name: str, n: int) -> str:
        """Multiply by the ternary matrix ``name`` of shape (n, k)."""
        k = self._values[x.q].width
        weight = self._weight(name, (n, k))
        layout = LAYOUTS[self._weights[weight].layout]
        if layout.group is None:
            raise UnsupportedError(
                "linear layer is not ternary", where=weight, expected="a ternary layout such as i2_s", got=layout.name
            )
        out = self._value(name, n)
        self._node("linear", (x.q, x.scale), (out,), (weight,), k=k, n=n, group=layout.group,
                   act_bits=self.config.act_bits, accumulate=0)  # fmt: skip
        return out

    def rope_kv(self, q: str, k: str, v: str) -> str:
        """Rotate q and k by position, append k and v to this layer's cache; the rotated q."""
        c = self.config
        tables = tuple(self._computed(name, (c.max_context, c.head_dim // 2)) for name in ("rope.cos", "rope.sin"))
        out = self._value("q_rotated", c.n_heads * c.head_dim)
        self._node("rope_kv", (q, k, v), (out,), tables, layer=self._block, n_heads=c.n_heads, n_kv_heads=c.n_kv_heads,
                   head_dim=c.head_dim, interleaved=int(c.rope_style == "interleaved"))  # fmt: skip
        return out

    def attention(self, q: str) -> str:
        """Causal attention of q over this layer's cache."""
        c = self.config
        out = self._value("attention", c.n_heads * c.head_dim)
        self._node("attention", (q,), (out,), (), layer=self._block, n_heads=c.n_heads, n_kv_heads=c.n_kv_heads,
                   head_dim=c.head_dim)  # fmt: skip
        return out

    def gated(self, gate: str, up: str) -> str:
        """The config's activation of the gate, times up."""
        width = self._values[gate].width
        out = self._value("ffn", width)
        self._node(f"{self.config.activation}_mul", (gate, up), (out,), (), k=width)
        return out

    def add(self, x: str, y: str) -> str:
        """x + y."""
        width = self._values[x].width
        out = self._value("x", width)
        self._node("add", (x, y), (out,), (), k=width)
        return out

    def output_rows(self, x: str) -> str:
        """The rows of x whose logits were asked for."""
        width = self._values[x].width
        out = self._value("x_out", width, domain="outputs")
        self._node("output_rows", (x,), (out,), (), k=width)
        return out

    def logits(self, hidden: str, head: str) -> None:
        """Project to the vocabulary and select the candidates that were asked for."""
        c = self.config
        weight = self._weight(head, (c.vocab_size, c.d_model))
        logits = self._value("logits", c.vocab_size, domain="outputs")
        self._node("logits_projection", (hidden,), (logits,), (weight,), k=c.d_model, vocab=c.vocab_size)
        ids = self._value("ids", 1, "i32", domain="outputs")
        values = self._value("values", 1, domain="outputs")
        self._node("select", (logits,), (ids, values), (), vocab=c.vocab_size)

    def build(self, ignored: frozenset[str] = frozenset()) -> Graph:
        """The finished graph. UnsupportedError if the file holds a tensor that the graph does not read."""
        unread = sorted(set(self._tensors) - set(self._weights) - ignored)
        if unread:
            raise UnsupportedError(
                f"the file holds {len(unread)} tensors that architecture {self.config.architecture} does not read",
                where=unread[0],
                hint="Running without them would give wrong results",
            )
        return Graph(self.config, self._values, self._weights, tuple(self._nodes))

    def _weight(self, name: str, shape: tuple[int, ...]) -> str:
        full = f"blk.{self._block}.{name}.weight" if self._block >= 0 else f"{name}.weight"
        info = self._tensors.get(full)
        if info is None:
            raise FormatError("missing tensor", where=full, expected=f"shape {shape}")
        if info.shape != shape:
            raise FormatError("tensor has the wrong shape", where=full, expected=shape, got=info.shape)
        self._weights[full] = Weight(full, shape, info.layout)
        return full

    def _computed(self, name: str, shape: tuple[int, ...]) -> str:
        self._weights[name] = Weight(name, shape, "computed")
        return name

    def _value(self, name: str, width: int, dtype: str = "f32", domain: Domain = "tokens") -> str:
        base = f"{self._block}.{name}" if self._block >= 0 else name
        unique, n = base, 2
        while unique in self._values:
            unique, n = f"{base}.{n}", n + 1
        self._values[unique] = Value(unique, width, dtype, domain)
        return unique

    def _node(
        self, op: str, inputs: tuple[str, ...], outputs: tuple[str, ...], weights: tuple[str, ...], **attrs: float
    ) -> None:
        self._nodes.append(Node(op, inputs, outputs, weights, attrs, self._block))


def with_cache(graph: Graph, kv: str) -> Graph:
    """The graph with keys and values kept as "f16", which it is built with, or as "int8". Errors: ShapeError for another kind."""
    if kv not in CACHES:
        raise ShapeError("kv", expected=" or ".join(CACHES), got=kv)
    if kv == "f16":
        return graph
    nodes = (replace(n, op=n.op + INT8) if n.op in ("rope_kv", "attention") else n for n in graph.nodes)
    return replace(graph, nodes=tuple(nodes))


def _short(value: str) -> str:
    head, _, tail = value.partition(".")
    return tail if head.isdigit() else value


def graph_hash(graph: Graph) -> str:
    """SHA-256 of what the model means: profile, hyperparameters, tensors read, ops in order. Equal on every machine."""
    content = {
        "profile": PROFILE,
        "config": asdict(graph.config),
        "values": [[v.name, v.width, v.dtype, v.domain] for v in graph.values.values()],
        "weights": [[w.name, list(w.shape), w.layout] for w in graph.weights.values()],
        "nodes": [[n.op, n.inputs, n.outputs, n.weights, dict(n.attrs)] for n in graph.nodes],
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
