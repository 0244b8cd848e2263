"""The op table: what a step can compute, with its attributes, its cost and how its results compare between back ends.

A graph uses the plain ops. A planner may replace a chain of them by a fused op that a back end offers (``parts`` names the
chain); the result has the same bits. ``screen``, ``threshold``, ``refine`` and ``rescore`` stand in front of logits_projection
and spare it in a step that asks for candidates: they leave the logits that can be among them, and −∞ for all others. ``tail``
bounds the weight of these others, for draws that it may change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

Attrs = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Cost:
    """Work of one call on T rows: multiply-accumulates, and activation and cache bytes. Residents hold the weight bytes."""

    macs: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Op:
    """One row: attribute names in the order in which a plan stores them, a cost rule, the comparison family.

    ``family``: "exact" compares integers, "bits" compares float32 bit patterns; both with ``==``.
    ``cost(attrs, t, kv_len)``: t rows, each seeing kv_len cached positions where the op reads the cache.
    """

    name: str
    ints: tuple[str, ...]
    floats: tuple[str, ...]
    cost: Callable[[Attrs, int, int], Cost]
    family: str = "bits"
    parts: tuple[str, ...] = ()


def _elementwise(reads: int, writes: int = 1) -> Callable[[Attrs, int, int], Cost]:
    def cost(a: Attrs, t: int, kv_len: int) -> Cost:
        return Cost(0, int(4 * (reads + writes) * t * a["k"]))

    return cost


def _quantize(a: Attrs, t: int, kv_len: int) -> Cost:
    return Cost(0, int(t * (5 * a["k"] + 4)))


def _linear(a: Attrs, t: int, kv_len: int) -> Cost:
    return Cost(int(t * a["k"] * a["n"]), int(t * (a["k"] + 4 + 4 * a["n"] * (1 + a.get("accumulate", 0)))))


CACHES = ("f16", "int8")
"""How keys and values are kept: as float16, or as int8 codes with a float32 scale for each position and head."""

INT8 = "_int8"
"""What the name of an op ends in that works on a cache of int8, and otherwise as the op of the name before it."""


def cache_of(ops: Iterable[str]) -> str:
    """The kind of cache on which these ops work: "f16" or "int8"."""
    return "int8" if any(op.endswith(INT8) for op in ops) else "f16"


def vector_bytes(cache: str, head_dim: int) -> int:
    """Bytes of one key or value of one head in a cache of a kind, its scale included."""
    return {"f16": 2 * head_dim, "int8": head_dim + 4}[cache]


def _rope_kv(cache: str) -> Callable[[Attrs, int, int], Cost]:
    def cost(a: Attrs, t: int, kv_len: int) -> Cost:
        rotated = (a["n_heads"] + a["n_kv_heads"]) * a["head_dim"]
        kept = 2 * a["n_kv_heads"] * vector_bytes(cache, int(a["head_dim"]))
        return Cost(0, int(t * (8 * rotated + 4 * a["head_dim"] + kept)))

    return cost


def _attention(cache: str) -> Callable[[Attrs, int, int], Cost]:
    def cost(a: Attrs, t: int, kv_len: int) -> Cost:
        width = a["n_heads"] * a["head_dim"]
        read = 2 * a["n_kv_heads"] * vector_bytes(cache, int(a["head_dim"])) * kv_len
        return Cost(int(2 * t * width * kv_len), int(t * (read + 8 * width)))

    return cost


def _logits(a: Attrs, t: int, kv_len: int) -> Cost:
    return Cost(int(t * a["k"] * a["vocab"]), int(4 * t * (a["k"] + a["vocab"])))


def _select(a: Attrs, t: int, kv_len: int) -> Cost:
    return Cost(0, int(4 * t * a["vocab"]))


def _screen(a: Attrs, t: int, kv_len: int) -> Cost:
    return Cost(int(t * a["k"] * a["vocab"]), int(4 * t * (a["k"] + 2 * a["vocab"])))


def _threshold(a: Attrs, t: int, kv_len: int) -> Cost:
    return Cost(0, int(4 * t * (a["vocab"] + a["k"] + 1)))


def _refine(a: Attrs, t: int, kv_len: int) -> Cost:
    return Cost(0, int(4 * t * a["vocab"]))


def _rescore(a: Attrs, t: int, kv_len: int) -> Cost:
    return Cost(0, int(4 * t * 2 * a["vocab"]))


def _tail(a: Attrs, t: int, kv_len: int) -> Cost:
    return Cost(0, int(4 * t * 2 * a["vocab"]))


OPS: dict[str, Op] = {
    op.name: op
    for op in (
        Op("embedding", ("k", "vocab"), (), _elementwise(0)),
        Op("rmsnorm", ("k",), ("eps",), _elementwise(1)),
        Op("quantize", ("k", "act_bits"), (), _quantize, family="exact"),
        Op("linear", ("k", "n", "group", "act_bits", "accumulate"), (), _linear),
        Op("rope_kv", ("layer", "n_heads", "n_kv_heads", "head_dim", "interleaved"), (), _rope_kv("f16")),
        Op("rope_kv_int8", ("layer", "n_heads", "n_kv_heads", "head_dim", "interleaved"), (), _rope_kv("int8")),
        Op("attention", ("layer", "n_heads", "n_kv_heads", "head_dim"), (), _attention("f16")),
        Op("attention_int8", ("layer", "n_heads", "n_kv_heads", "head_dim"), (), _attention("int8")),
        Op("relu2_mul", ("k",), (), _elementwise(2)),
        Op("silu_mul", ("k",), (), _elementwise(2)),
        Op("add", ("k",), (), _elementwise(2)),
        Op("output_rows", ("k",), (), _elementwise(1)),
        Op("logits_projection", ("k", "vocab"), (), _logits),
        Op("select", ("vocab",), (), _select, family="exact"),
        Op("screen", ("k", "vocab"), (), _screen),
        Op("threshold", ("k", "vocab"), (), _threshold),
        Op("refine", ("k", "vocab"), (), _refine),
        Op("rescore", ("k", "vocab"), (), _rescore),
        Op("tail", ("vocab",), (), _tail),
        Op("rmsnorm_quantize", ("k", "act_bits"), ("eps",), _quantize, family="exact", parts=("rmsnorm", "quantize")),
    )
}

SCREENED_HEAD = ("screen", "threshold", "refine", "rescore")
"""The ops that find candidates without reading the whole head, in their order."""
STAGES = {"embedding": "embed", "logits_projection": "logits", **dict.fromkeys(SCREENED_HEAD, "logits")}
"""Op → stage of a token's time; every other op is "forward", and what passes between two steps is "sample"."""
