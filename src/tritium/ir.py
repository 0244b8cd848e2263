"""The two forms of a model as data: Graph (what it means) and Plan (what one machine runs), and the plan's binary form."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tritium.types import ModelConfig

Domain = Literal["tokens", "outputs"]

DTYPES: dict[str, tuple[int, int]] = {"f32": (0, 4), "i8": (1, 1), "i32": (2, 4), "i16": (3, 2)}
"""dtype → (code in the binary plan, bytes)."""

DOMAINS: dict[str, int] = {"tokens": 0, "outputs": 1}


@dataclass(frozen=True, slots=True)
class Value:
    """An activation of the graph: ``width`` numbers for each row of its domain."""

    name: str
    width: int
    dtype: str
    domain: Domain


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor that the graph reads; ``layout`` is the file's, or "computed" for RoPE tables."""

    name: str
    shape: tuple[int, ...]
    layout: str


@dataclass(frozen=True, slots=True)
class Node:
    """One op of the graph. ``block`` is the layer's index, or −1 outside the layers."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[str, ...]
    attrs: Mapping[str, float]
    block: int = -1


@dataclass(frozen=True, slots=True)
class Graph:
    """A forward pass, straight-line: every value is assigned once."""

    config: ModelConfig
    values: Mapping[str, Value]
    weights: Mapping[str, Weight]
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Buffer:
    """A piece of the arena: rows × ``width`` elements, row-major, rows = the domain's capacity."""

    name: str
    dtype: str
    domain: Domain
    width: int
    offset: int


@dataclass(frozen=True, slots=True)
class Operand:
    """Columns of a buffer, from ``column`` on."""

    buffer: int
    column: int


@dataclass(frozen=True, slots=True)
class Resident:
    """Weights as they stand in memory: one or more tensors, their rows one after the other, in a native layout.

    In panel layouts each tensor's rows are padded to a multiple of 16, so ``rows`` is the padded total.
    """

    tensors: tuple[str, ...]
    layout: str
    rows: int
    cols: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Choice:
    """A kernel of a step for t_min ≤ T ≤ t_max (0: unbounded), and the residents that it reads."""

    kernel: str
    t_min: int
    t_max: int
    residents: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One call: an op on operands, with its kernels by range of T."""

    op: str
    label: str
    block: int
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    attrs: Mapping[str, float]
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A flat list of steps over one arena. ``graph_hash`` is what it means; ``hash`` (of the binary form) what runs here."""

    architecture: str
    backend: str
    profile: str
    graph_hash: str
    max_tokens: int
    max_outputs: int
    max_context: int
    vocab_size: int
    n_kv_layers: int
    n_kv_heads: int
    head_dim: int
    kv_block: int
    arena_bytes: int
    rope_theta: float
    rope_factors: tuple[float, ...]
    buffers: tuple[Buffer, ...]
    residents: tuple[Resident, ...]
    steps: tuple[Step, ...]
    hash: str = ""


MAGIC = b"TRITPLAN"
VERSION = 1


def encode_plan(plan: Plan, ops: Mapping[str, Any]) -> bytes:
    """Serialize a plan, little-endian, for the native executor.

    header     8s magic, u32 version, u32 n_buffers n_residents n_steps max_tokens max_outputs max_context vocab_size n_kv_layers
               n_kv_heads head_dim kv_block, u64 arena_bytes
    buffer     u8 dtype (0 f32, 1 i8, 2 i32, 3 i16), u8 domain (0 tokens, 1 outputs), u16 zero, u32 width, u64 offset
    resident   u32 rows, u32 cols, u64 nbytes, name layout
    step       name op, u8 n_inputs n_outputs n_ints n_floats n_choices, operands (u32 buffer, u32 column) inputs then outputs,
               i32 ints, f32 floats in the order of the op's row, choices
    choice     name kernel, u32 t_min, u32 t_max, u8 n_residents, u32 indices
    name       u8 length, ASCII bytes
    """
    out = bytearray()

    def name(text: str) -> None:
        raw = text.encode("ascii")
        out.extend(struct.pack("<B", len(raw)) + raw)

    out += MAGIC + struct.pack(
        "<12IQ", VERSION, len(plan.buffers), len(plan.residents), len(plan.steps), plan.max_tokens, plan.max_outputs,
        plan.max_context, plan.vocab_size, plan.n_kv_layers, plan.n_kv_heads, plan.head_dim, plan.kv_block, plan.arena_bytes,
    )  # fmt: skip
    for b in plan.buffers:
        out += struct.pack("<BBHIQ", DTYPES[b.dtype][0], DOMAINS[b.domain], 0, b.width, b.offset)
    for r in plan.residents:
        out += struct.pack("<IIQ", r.rows, r.cols, r.nbytes)
        name(r.layout)
    for s in plan.steps:
        row = ops[s.op]
        name(s.op)
        out += struct.pack("<5B", len(s.inputs), len(s.outputs), len(row.ints), len(row.floats), len(s.choices))
        for operand in (*s.inputs, *s.outputs):
            out += struct.pack("<II", operand.buffer, operand.column)
        out += struct.pack(f"<{len(row.ints)}i", *(int(s.attrs.get(k, 0)) for k in row.ints))
        out += struct.pack(f"<{len(row.floats)}f", *(s.attrs[k] for k in row.floats))
        for c in s.choices:
            name(c.kernel)
            out += struct.pack(f"<IIB{len(c.residents)}I", c.t_min, c.t_max, len(c.residents), *c.residents)
    return bytes(out)
