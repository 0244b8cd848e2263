"""Compare Tritium with another engine on the same weights: logits a token, int8 codes, every op and every layer.

Equality cannot be had with an engine that sums in another order. What is counted instead: how far the logits are apart, how many
int8 codes moved, whether each op agrees when it is given the peer's own inputs, whether a layer does on tokens without a moved
code, and which of the peer's known differences, computed here in NumPy, closes the gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tritium.bench.agreement import LogitAgreement, Moves, compare_logits, cosine, moves, relative
from tritium.bench.peers import Capture, Peer
from tritium.bench.perplexity import Mean, mean_of, surprise
from tritium.bench.walk import PROFILE, TOKENS, Values, Variation, Walk, keys_name, values_name
from tritium.formats.gguf import GGUFFile
from tritium.ir import Graph, Node
from tritium.numerics import F32, F64

OP_TOLERANCE = 1e-5
COSINE_TOLERANCE = 0.999


@dataclass(frozen=True, slots=True)
class CodeCount:
    """Codes of one linear input that differ from the peer's.

    ``injected``: ours computed from the peer's own input; ``end_to_end``: ours from our own.
    """

    value: str
    n_codes: int
    injected: Moves
    end_to_end: Moves


@dataclass(frozen=True, slots=True)
class OpAgreement:
    """One op given the peer's inputs (codes included, where visible): relative error of its worst token.

    ``error``: by our rules; ``explained``: with the peer's known differences computed here.
    """

    op: str
    value: str
    error: float
    explained: float


@dataclass(frozen=True, slots=True)
class LayerAgreement:
    """One layer given the peer's input: relative errors of its output.

    ``median`` and ``worst``: over tokens, by our rules. ``clean``: with the peer's differences computed here, of the worst of the
    ``n_clean`` tokens in which no int8 code moved, nor one that a key or value before depends on; None if there is none.
    """

    layer: int
    median: float
    worst: float
    n_clean: int
    clean: float | None


@dataclass(frozen=True, slots=True)
class Rung:
    """The gap once the peer's differences up to this one are computed here.

    ``cosine`` (least) and ``max_abs``: of logits, the whole model recomputed; ``layer``: median relative error over all layers
    and tokens, each layer given the peer's input.
    """

    name: str
    text: str
    cosine: float
    max_abs: float
    layer: float | None


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What counts as agreement."""

    cosine: float = COSINE_TOLERANCE
    op: float = OP_TOLERANCE


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a cross-validation.

    ``nats`` and ``their_nats``: −ln p of the given tokens, ``delta`` theirs less ours, paired; None for a single token.
    ``same_bits``: the back end's logits are those of the NumPy walk. ``rounding``: the peer against itself in float32, and
    ``to_float32``: ours against the peer in float32, for peers that are not float32. ``failures``: empty if the two agree.
    """

    ids: tuple[int, ...]
    logits: LogitAgreement
    nats: Mean | None
    their_nats: Mean | None
    delta: Mean | None
    same_bits: bool | None
    codes: tuple[CodeCount, ...]
    ops: tuple[OpAgreement, ...]
    layers: tuple[LayerAgreement, ...]
    ladder: tuple[Rung, ...]
    rounding: LogitAgreement | None
    to_float32: LogitAgreement | None
    failures: tuple[str, ...]


def cross_validate(
    ours: F32, graph: Graph, file: GGUFFile, peer: Peer, ids: Sequence[int], *,
    tolerance: Tolerance | None = None, top: int = 5, layers: bool = True,
) -> Report:  # fmt: skip
    """Compare our logits (T, V) of ``ids`` with the peer's, and with ``layers`` every code, op and layer.

    Errors: ShapeError for logits of another shape; NumericsError if the peer's are not finite.
    """
    tolerance = tolerance or Tolerance()
    tokens = np.array(ids, np.int32)
    capture = peer.run(tokens, capture=layers)
    agreement = compare_logits(ours, capture.logits, top)
    same_bits: bool | None = None
    codes: tuple[CodeCount, ...] = ()
    ops: tuple[OpAgreement, ...] = ()
    of_layers: tuple[LayerAgreement, ...] = ()
    ladder: tuple[Rung, ...] = ()
    if layers:
        walk = Walk(graph, file)
        plain = walk.forward(tokens)
        same_bits = plain[_logits_name(graph)].tobytes() == ours.tobytes()
        values = {TOKENS: tokens, **capture.values}
        rungs = _rungs(walk, capture, values)
        explained = rungs[len(capture.differences)][2]
        codes = _count_codes(walk, plain, values)
        ops = tuple(_ops(walk, values, explained))
        runs = [_run_layers(walk, values, variation) for _, _, variation in rungs]
        of_layers = tuple(_layers(walk, values, runs[0], runs[len(capture.differences)], explained))
        ladder = tuple(_climb(walk, capture.logits, values, plain, rungs, runs))
    in_float32 = peer.in_float32(tokens)
    rounding = None if in_float32 is None else compare_logits(in_float32, capture.logits, top)
    to_float32 = None if in_float32 is None else compare_logits(ours, in_float32, top)
    nats = their_nats = delta = None
    if len(tokens) > 1:
        one, two = surprise(ours[:-1], tokens[1:]), surprise(capture.logits[:-1], tokens[1:])
        nats, their_nats, delta = mean_of(one), mean_of(two), mean_of(two - one)
    return Report(
        ids=tuple(int(token) for token in ids),
        logits=agreement,
        nats=nats,
        their_nats=their_nats,
        delta=delta,
        same_bits=same_bits,
        codes=codes,
        ops=ops,
        layers=of_layers,
        ladder=ladder,
        rounding=rounding,
        to_float32=to_float32,
        failures=tuple(_failures(agreement, ops, of_layers, peer.is_float32, tolerance)),
    )


def _failures(
    logits: LogitAgreement,
    ops: Sequence[OpAgreement],
    layers: Sequence[LayerAgreement],
    is_float32: bool,
    limit: Tolerance,
) -> list[str]:
    out = []
    if not logits.cosine.min() >= limit.cosine:
        t = int(logits.cosine.argmin())
        out.append(f"cosine of the logits is {logits.cosine[t]:.6f} at token {t}, below {limit.cosine}")
    if is_float32:
        bad = [op for op in ops if not op.explained <= limit.op]
        if bad:
            worst = max(bad, key=lambda op: op.explained)
            out.append(
                f"{len(bad)} ops differ by more than {limit.op:g} on the peer's inputs, most {worst.value}: {worst.explained:.2g}"
            )
        wide = [layer for layer in layers if layer.clean is not None and not layer.clean <= limit.op]
        if wide:
            far = max(wide, key=lambda layer: layer.clean or 0.0)
            out.append(
                f"{len(wide)} layers differ by more than {limit.op:g} without a moved code, most {far.layer}: {far.clean:.2g}"
            )
    return out


def _logits_name(graph: Graph) -> str:
    return next(node.outputs[0] for node in graph.nodes if node.op == "logits_projection")


def _count_codes(walk: Walk, ours: Values, theirs: Values) -> tuple[CodeCount, ...]:
    """Of the linear inputs whose codes the peer shows."""
    out = []
    for node in walk.graph.nodes:
        if node.op == "quantize" and node.outputs[0] in theirs:
            q = node.outputs[0]
            local = walk.run([node], {node.inputs[0]: theirs[node.inputs[0]]})
            counts = moves(local[q], theirs[q]), moves(ours[q], theirs[q])
            out.append(CodeCount(node.inputs[0], int(theirs[q].size), *counts))
    return tuple(out)


def _ops(walk: Walk, theirs: Values, explained: Variation) -> list[OpAgreement]:
    """Every op of which the peer shows inputs and outputs."""
    quantize = {node.outputs[0]: node for node in walk.graph.nodes if node.op == "quantize"}
    out = []
    for node in walk.graph.nodes:
        if node.op in ("quantize", "output_rows", "select"):
            continue
        nodes = [node]
        if node.op == "linear" and node.inputs[0] not in theirs:
            nodes = [quantize[node.inputs[0]], node]
        needed = _inputs(nodes)
        results = _results(node)
        if not all(name in theirs for name in (*needed, *results)):
            continue
        errors = []
        for variation in (PROFILE, explained):
            local = walk.run(nodes, {name: theirs[name] for name in needed}, variation)
            errors.append(max(float(relative(local[name], theirs[name]).max()) for name in results))
        out.append(OpAgreement(node.op, node.outputs[0], *errors))
    return out


def _inputs(nodes: Sequence[Node]) -> list[str]:
    made = {name for node in nodes for name in node.outputs}
    names = [name for node in nodes for name in node.inputs if name not in made]
    if nodes[0].op == "embedding":
        names.append(TOKENS)
    if nodes[0].op == "attention":
        layer = int(nodes[0].attrs["layer"])
        names += [keys_name(layer), values_name(layer)]
    return names


def _results(node: Node) -> list[str]:
    names = list(node.outputs)
    if node.op == "rope_kv":
        layer = int(node.attrs["layer"])
        names += [keys_name(layer), values_name(layer)]
    return names


LayerRun: TypeAlias = tuple[int, F64, Values]
"""A layer given the peer's input: its number, relative errors (T,) of its output, and all its values."""

NamedVariation: TypeAlias = tuple[str, str, Variation]


def _run_layers(walk: Walk, theirs: Values, variation: Variation) -> list[LayerRun]:
    """Every layer of which the peer shows both ends."""
    out = []
    for layer in range(walk.graph.config.n_layers):
        nodes = walk.block(layer)
        first, last = nodes[0].inputs[0], nodes[-1].outputs[0]
        if first in theirs and last in theirs:
            local = walk.run(nodes, {first: theirs[first]}, variation)
            kept = {name: local[name] for node in nodes if node.op == "quantize" for name in node.outputs}
            out.append((layer, relative(local[last], theirs[last]), kept))
    return out


def _layers(
    walk: Walk, theirs: Values, plain: list[LayerRun], full: list[LayerRun], explained: Variation
) -> list[LayerAgreement]:
    out = []
    for (layer, errors, _), (_, left, local) in zip(plain, full, strict=True):
        clean = ~_flipped(walk, layer, local, theirs, explained)
        worst = float(left[clean].max()) if clean.any() else None
        out.append(LayerAgreement(layer, float(np.median(errors)), float(errors.max()), int(clean.sum()), worst))
    return out


def _flipped(walk: Walk, layer: int, ours: Values, theirs: Values, variation: Variation) -> NDArray[np.bool_]:
    """Tokens (T,) with a code that moved, or that attend to a key or value of a token with one.

    Of a peer that does not show its codes, they are computed here from its inputs.
    """
    flipped = np.zeros(len(theirs[TOKENS]), np.bool_)
    before_attention = True
    for node in walk.block(layer):
        if node.op == "rope_kv":
            before_attention = False
        if node.op != "quantize":
            continue
        q, x = node.outputs[0], node.inputs[0]
        if q in theirs:
            codes = theirs[q]
        elif x in theirs:
            codes = walk.run([node], {x: theirs[x]}, variation)[q]
        else:
            continue
        moved = (ours[q] != codes).any(axis=1)
        flipped |= np.logical_or.accumulate(moved) if before_attention else moved
    return flipped


def _rungs(walk: Walk, capture: Capture, theirs: Values) -> list[NamedVariation]:
    """Our rules, then the peer's differences one on top of the other, then its codes where it shows them."""
    out: list[NamedVariation] = [("", "as Tritium computes", PROFILE)]
    for difference in capture.differences:
        out.append((difference.name, difference.text, out[-1][2] | difference.variation))
    outputs = [name for node in walk.graph.nodes if node.op == "quantize" for name in node.outputs]
    codes = {name: theirs[name] for name in outputs if name in theirs}
    if codes:
        out.append(("codes", "the peer's own int8 codes", out[-1][2] | Variation(codes=codes)))
    return out


def _climb(
    walk: Walk, logits: F32, theirs: Values, plain: Values, rungs: list[NamedVariation], runs: list[list[LayerRun]]
) -> list[Rung]:
    out = []
    target = _logits_name(walk.graph)
    for (name, text, variation), run in zip(rungs, runs, strict=True):
        made = walk.forward(theirs[TOKENS], variation)[target] if name else plain[target]
        gap = float(np.median(np.concatenate([errors for _, errors, _ in run]))) if run else None
        out.append(Rung(name, text, float(cosine(made, logits).min()), float(np.abs(made - logits).max()), gap))
    return out
