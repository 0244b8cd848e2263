"""The planner: Graph + back end → Plan. Fuses ops, picks kernels, lays buffers out in one arena."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from tritium.backends import Backend
from tritium.errors import ShapeError, UnsupportedError
from tritium.graph import graph_hash
from tritium.ir import DTYPES, Buffer, Choice, Graph, Node, Operand, Plan, Resident, Step, Value, encode_plan
from tritium.numerics import KV_BLOCK, PROFILE
from tritium.ops import INT8, OPS, SCREENED_HEAD

PANEL_ROWS = 16
ALIGNMENT = 64
MAX_TOKENS = 512
MAX_OUTPUTS = 32
SWITCHES = {
    "head_screen": ("auto", "on", "off"),
    "ffn_sparsity": ("auto", "on", "off"),
    "weight_layout": ("auto", "2bit", "1.6bit"),
}


@dataclass(frozen=True, slots=True)
class Fused:
    """Graph nodes that run as one step, in the order of their weights."""

    op: str
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, float]
    in_place: bool = False
    layout: str = ""
    """Of a linear's matrix in memory."""
    has_whole_panels: bool = True
    """False of a linear of whose matrix zeros leave only rows, or columns, to multiply."""
    is_gated: bool = False
    """The third input says which rows are needed."""


def make_plan(
    graph: Graph,
    backend: Backend,
    *,
    max_tokens: int = MAX_TOKENS,
    max_outputs: int = MAX_OUTPUTS,
    max_context: int | None = None,
    head_screen: str = "auto",
    ffn_sparsity: str = "auto",
    weight_layout: str = "auto",
) -> Plan:
    """Plan steps of up to ``max_tokens`` tokens and ``max_outputs`` rows of logits on a back end.

    ``head_screen``: find candidates by bounds on all logits and the logits of few rows: "auto" where it pays, "on", "off".
    ``ffn_sparsity``: leave out a token's rows of ffn_up behind closed gates and its columns of ffn_down of code 0, likewise.
    ``weight_layout``: ternary matrices in memory in "2bit" or "1.6bit", or "auto": each as the back end takes it to be quicker.

    Errors: ShapeError for limits out of range; UnsupportedError when the back end has no kernel for an op.
    """
    c = graph.config
    context = c.max_context if max_context is None else max_context
    if not 0 < context <= c.max_context:
        raise ShapeError("max_context", expected=f"1 to {c.max_context}, the model's own", got=context)
    if max_tokens < 1 or max_outputs < 1:
        raise ShapeError("limits of a step", expected="at least 1 token and 1 output", got=(max_tokens, max_outputs))
    given = {"head_screen": head_screen, "ffn_sparsity": ffn_sparsity, "weight_layout": weight_layout}
    for name, choices in SWITCHES.items():
        if given[name] not in choices:
            raise ShapeError(name, expected=" or ".join(choices), got=given[name])
    nodes = _norm_quantize([_plain(n) for n in graph.nodes], backend)
    if ffn_sparsity != "off":
        nodes = _sparse(nodes, graph, backend, ffn_sparsity)
    fused = _accumulate(_stack(nodes, backend), graph, backend)
    fused, bounds = _screen(fused, graph, backend, head_screen)
    places, buffers, arena_bytes = _lay_out(fused, {**graph.values, **bounds}, max_tokens, max_outputs)
    fused = [_in_layout(f, graph, backend, weight_layout) for f in fused]
    residents, index = _residents(fused, graph, backend, context)
    steps = tuple(_step(f, graph, backend, places, residents, index) for f in fused)
    plan = Plan(
        architecture=c.architecture, backend=backend.name, profile=PROFILE, graph_hash=graph_hash(graph),
        max_tokens=max_tokens, max_outputs=max_outputs, max_context=context, vocab_size=c.vocab_size,
        n_kv_layers=c.n_layers, n_kv_heads=c.n_kv_heads, head_dim=c.head_dim, kv_block=KV_BLOCK, arena_bytes=arena_bytes,
        rope_theta=c.rope_theta, rope_factors=c.rope_factors, buffers=buffers, residents=residents, steps=steps,
    )  # fmt: skip
    return replace(plan, hash=hashlib.sha256(encode_plan(plan, OPS)).hexdigest())


def _plain(node: Node) -> Fused:
    return Fused(node.op, (node,), node.inputs, node.outputs, node.attrs, in_place=node.op.startswith("rope_kv"))


def _norm_quantize(nodes: list[Fused], backend: Backend) -> list[Fused]:
    """rmsnorm followed by the quantize that alone reads it."""
    if "rmsnorm_quantize" not in backend.fused:
        return nodes
    readers = _readers(nodes)
    out: list[Fused] = []
    for f in nodes:
        last = out[-1] if out else None
        if (
            f.op == "quantize"
            and last
            and last.op == "rmsnorm"
            and last.outputs == f.inputs
            and readers[f.inputs[0]] == 1
        ):
            attrs = {**f.attrs, **last.attrs}
            out[-1] = Fused("rmsnorm_quantize", (*last.nodes, *f.nodes), last.inputs, f.outputs, attrs)
        else:
            out.append(f)
    return out


def _stack(nodes: list[Fused], backend: Backend) -> list[Fused]:
    """Consecutive linears of one input become one matrix. Rows before the last must fill whole panels."""
    if "stacked" not in backend.fused:
        return nodes
    out: list[Fused] = []
    for f in nodes:
        last = out[-1] if out else None
        if (
            last and f.op == last.op == "linear" and f.inputs == last.inputs and last.attrs["n"] % PANEL_ROWS == 0
            and f.attrs["group"] == last.attrs["group"]
        ):  # fmt: skip
            attrs = {**f.attrs, "n": last.attrs["n"] + f.attrs["n"]}
            out[-1] = Fused("linear", (*last.nodes, *f.nodes), f.inputs, (*last.outputs, *f.outputs), attrs)
        else:
            out.append(f)
    return out


def _sparse(nodes: list[Fused], graph: Graph, backend: Backend, ffn_sparsity: str) -> list[Fused]:
    """Find relu2_mul between two linears and the quantization in front of a third; give the second and third what skips zeros.

    A closed gate makes a zero of any finite product, whose sign a quantization alone does not see; a code 0 adds nothing.
    """
    out, readers = list(nodes), _readers(nodes)
    makers = {name: i for i, f in enumerate(nodes) for name in f.outputs}
    reader = {name: i for i, f in enumerate(nodes) for name in f.inputs}
    found = False
    for f in nodes:
        if f.op != "relu2_mul":
            continue
        product, (gate, up) = f.outputs[0], f.inputs
        behind = nodes[reader[product]]
        if behind.op == "rmsnorm" and readers[behind.outputs[0]] == 1:
            behind = nodes[reader[behind.outputs[0]]]
        ends = [nodes[makers[up]], nodes[reader[behind.outputs[0]]]]
        is_alone = all(readers[name] == 1 for name in (product, up, behind.outputs[0]))
        if (
            not is_alone
            or makers[gate] > makers[up]
            or "quantize" not in behind.op
            or any(end.op != "linear" or end.attrs["group"] for end in ends)
        ):
            continue
        for end, by_columns in zip(ends, (False, True), strict=True):
            n, k = graph.weights[end.nodes[0].weights[0]].shape
            layout = backend.sparse_layout(
                graph.weights[end.nodes[0].weights[0]].layout, n, k, by_columns=by_columns, ffn_sparsity=ffn_sparsity
            )
            if layout is not None:
                found = True
                inputs = end.inputs if by_columns else (*end.inputs, gate)
                out[makers[end.outputs[0]]] = replace(
                    end, inputs=inputs, layout=layout, has_whole_panels=False, is_gated=not by_columns
                )
    if ffn_sparsity == "on" and not found:
        raise UnsupportedError(
            "no zeros to leave out", where=f"architecture {graph.config.architecture} on back end {backend.name}",
            expected="relu2 between two linear layers, on the CPU", hint="Leave --ffn-sparsity at auto",
        )  # fmt: skip
    return out


def _accumulate(nodes: list[Fused], graph: Graph, backend: Backend) -> list[Fused]:
    """linear, then add of its only reader: the linear adds to the residual's buffer, which has no later reader."""
    if "accumulate" not in backend.fused:
        return nodes
    readers, last_read = _readers(nodes), _last_reads(nodes)
    out: list[Fused] = []
    for i, f in enumerate(nodes):
        last = out[-1] if out else None
        if (
            f.op == "add" and last and last.op == "linear" and last.outputs == f.inputs[1:]
            and readers[f.inputs[1]] == 1 and last_read[f.inputs[0]] == i
        ):  # fmt: skip
            attrs = {**last.attrs, "accumulate": 1}
            inputs = (*last.inputs, f.inputs[0])
            nodes_of = (*last.nodes, *f.nodes)
            out[-1] = replace(last, nodes=nodes_of, inputs=inputs, outputs=f.outputs, attrs=attrs, in_place=True)
        else:
            out.append(f)
    return out


def _screen(
    nodes: list[Fused], graph: Graph, backend: Backend, head_screen: str
) -> tuple[list[Fused], dict[str, Value]]:
    """Put the ops of a screened head in front of the head whose logits only a select reads; name the values between them."""
    for i, (head, last) in enumerate(pairwise(nodes)):
        if head.op != "logits_projection" or last.op != "select" or last.inputs != head.outputs:
            continue
        weight = graph.weights[head.nodes[0].weights[0]]
        vocab, width = weight.shape
        if backend.head_plane(weight.layout, vocab, width, head_screen) is None:
            break
        between = [
            Value(f"{head.outputs[0]}.{name}", n, "f32", "outputs")
            for name, n in (("score", vocab), ("upper", vocab), ("threshold", 2), ("rest", 3))
        ]
        score, upper, threshold, rest = (v.name for v in between)
        hidden = head.inputs[0]
        screened = [
            Fused("screen", head.nodes, (hidden,), (score, upper), head.attrs),
            Fused("threshold", head.nodes, (hidden, score), (threshold,), head.attrs),
            Fused("refine", head.nodes, (upper, hidden, score, threshold), (upper,), head.attrs, in_place=True),
            Fused("rescore", head.nodes, (hidden, upper, threshold), head.outputs, head.attrs),
        ]
        inputs = (head.outputs[0], upper, threshold, *last.outputs)
        tail = Fused("tail", last.nodes, inputs, (rest,), last.attrs)
        return [*nodes[:i], *screened, head, last, tail, *nodes[i + 2 :]], {v.name: v for v in between}
    return nodes, {}


def _in_layout(f: Fused, graph: Graph, backend: Backend, weight_layout: str) -> Fused:
    """A linear whose matrix has its layout in memory."""
    if f.op != "linear" or f.layout:
        return f
    n, k, file_layout = int(f.attrs["n"]), int(f.attrs["k"]), graph.weights[f.nodes[0].weights[0]].layout
    layout = backend.linear_layout(file_layout, n, k, weight_layout, group=int(f.attrs["group"]))
    return replace(f, layout=layout)


def _readers(nodes: list[Fused]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for f in nodes:
        for name in f.inputs:
            counts[name] = counts.get(name, 0) + 1
    return counts


def _last_reads(nodes: list[Fused]) -> dict[str, int]:
    return {name: i for i, f in enumerate(nodes) for name in f.inputs}


def _reused(f: Fused) -> str | None:
    """The input whose place an in-place step's output takes: the first, or the residual of an accumulating linear."""
    if not f.in_place:
        return None
    return f.inputs[-1] if f.op == "linear" else f.inputs[0]


def _lay_out(
    fused: list[Fused], values: Mapping[str, Value], max_tokens: int, max_outputs: int
) -> tuple[dict[str, Operand], tuple[Buffer, ...], int]:
    """Give each value a place, (buffer, column), and each buffer an offset that no living buffer overlaps (first fit)."""
    places: dict[str, Operand] = {}
    groups: list[list[Value]] = []
    births: list[int] = []
    deaths: list[int] = []
    for i, f in enumerate(fused):
        for name in f.inputs:
            deaths[places[name].buffer] = i
        reused = _reused(f)
        if reused is not None:
            places[f.outputs[0]] = places[reused]
            deaths[places[reused].buffer] = i
            continue
        if f.outputs[0] in places:
            # Two ways to logits, of which a step of the engine takes one.
            for name in f.outputs:
                deaths[places[name].buffer] = i
            continue
        # The outputs of a stacked linear stand side by side in one buffer; other ops give each output its own.
        outputs = [values[name] for name in f.outputs]
        for group in [outputs] if f.op == "linear" else [[v] for v in outputs]:
            column = 0
            for v in group:
                places[v.name] = Operand(len(groups), column)
                column += _padded(v.width, PANEL_ROWS)
            groups.append(group)
            births.append(i)
            deaths.append(i)
    for f in fused:
        if f.op == "logits_projection":
            # After a step, full logits of single outputs may still be asked for.
            deaths[places[f.inputs[0]].buffer] = len(fused)
    rows = {"tokens": max_tokens, "outputs": max_outputs}
    living: list[tuple[int, int, int]] = []  # offset, size, death
    arena = 0
    buffers: list[Buffer] = []
    for b, group in enumerate(groups):
        first = group[0]
        lanes = ALIGNMENT if first.dtype in ("i8", "i16") else PANEL_ROWS
        width = _padded(sum(_padded(v.width, PANEL_ROWS) for v in group), lanes)
        size = rows[first.domain] * width * DTYPES[first.dtype][1]
        offset = 0
        # Births ascend: what is dead at this one stays dead.
        living = sorted(one for one in living if births[b] <= one[2])
        for other, other_size, _ in living:
            if other < offset + size and offset < other + other_size:
                offset = _padded(other + other_size, ALIGNMENT)
        living.append((offset, size, deaths[b]))
        arena = max(arena, _padded(offset + size, ALIGNMENT))
        buffers.append(Buffer(first.name, first.dtype, first.domain, width, offset))
    return places, tuple(buffers), arena


def _residents(
    fused: list[Fused], graph: Graph, backend: Backend, context: int
) -> tuple[tuple[Resident, ...], dict[tuple[tuple[str, ...], str], int]]:
    residents: list[Resident] = []
    index: dict[tuple[tuple[str, ...], str], int] = {}
    keys = ((f, _resident_key(f, tensors, graph, backend)) for f in fused for tensors in _weight_groups(f))
    for f, key in keys:
        if key not in index:
            tensors, layout = key
            shapes = [graph.weights[t].shape for t in tensors]
            if tensors[0] in COMPUTED:
                shapes = [(context, shape[1]) for shape in shapes]
            rows = 1 if len(shapes[0]) == 1 else sum(s[0] for s in shapes)
            cols = shapes[0][-1]
            if f.op == "linear" and f.has_whole_panels:
                rows = sum(_padded(s[0], backend.panel_rows) for s in shapes)
            index[key] = len(residents)
            residents.append(Resident(tensors, layout, rows, cols, backend.resident_bytes(layout, rows, cols)))
    return tuple(residents), index


COMPUTED = ("rope.cos", "rope.sin")
"""Residents that are not in the file: numerics.rope_tables makes them."""


def _weight_groups(f: Fused) -> list[tuple[str, ...]]:
    """The step's residents as groups of tensors: a linear's matrices form one, other weights stand alone."""
    names = [w for node in f.nodes for w in node.weights]
    return [tuple(names)] if f.op == "linear" else [(name,) for name in names]


def _resident_key(f: Fused, tensors: tuple[str, ...], graph: Graph, backend: Backend) -> tuple[tuple[str, ...], str]:
    if tensors[0] in COMPUTED:
        return tensors, "f32"
    return tensors, f.layout or backend.resident_layout(f.op, graph.weights[tensors[0]].layout)


def _step(
    f: Fused,
    graph: Graph,
    backend: Backend,
    places: dict[str, Operand],
    residents: tuple[Resident, ...],
    index: dict[tuple[tuple[str, ...], str], int],
) -> Step:
    reads = tuple(index[_resident_key(f, tensors, graph, backend)] for tensors in _weight_groups(f))
    layout = residents[reads[0]].layout if reads else "none"
    rows = backend.kernels(f.op, layout, f.attrs)
    choices = tuple(Choice(row.id, row.t_min, row.t_max, reads) for row in rows)
    inputs = f.inputs[: 2 + f.is_gated] if f.op == "linear" else f.inputs
    outputs = f.outputs[:1] if f.op == "linear" else f.outputs
    return Step(
        f.op,
        _label(f),
        f.nodes[0].block,
        tuple(places[name] for name in inputs),
        tuple(places[name] for name in outputs),
        f.attrs,
        choices,
    )


def _label(f: Fused) -> str:
    if f.op in SCREENED_HEAD:
        return f.op
    names = [w for node in f.nodes for w in node.weights if w not in COMPUTED]
    if not names:
        return f.op.removesuffix(INT8)
    return "+".join(name.removesuffix(".weight").rpartition(".")[2] for name in names)


def _padded(n: int, to: int) -> int:
    return -(-n // to) * to
