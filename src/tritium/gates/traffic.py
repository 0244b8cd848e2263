"""E3: bytes follow from layouts: weights once a call, keys and values once for each that sees them."""

from __future__ import annotations

from collections.abc import Iterator

from tritium.gates._check import Check, check
from tritium.gates._facts import ATTENTION, HEAD, LINEAR, SCREENED_HEAD, Facts, StepWork
from tritium.gates._policy import Policy
from tritium.gates.identity import (
    PANEL_ROWS,
    PANELS,
    column_bytes,
    file_bytes,
    matrices,
    panel_bytes,
    plane_bytes,
)
from tritium.receipts import registry

READERS = (LINEAR, HEAD, "embedding", "rmsnorm", "rmsnorm_quantize", *SCREENED_HEAD)
"""Ops that read weights."""


def gate(facts: Facts, policy: Policy) -> Iterator[Check]:
    """Panels of 16 rows of codes and a scale; rows of the head in their layout; a key and a value a position and head."""
    names = ("weight_bytes", "cache_bytes")
    if facts.evidence is None:
        yield from (check(name, "E3", None, hint="No ledger") for name in names)
        return
    if facts.data["backend"] != "cpu":
        yield from (
            check(name, "E3", None, facts.data["backend"], "cpu", "This back end counts no bytes") for name in names
        )
        return
    yield _weights(facts)
    yield _cache(facts)


def _weights(facts: Facts) -> Check:
    for s in facts.steps:
        expected = _expected(facts, s, matrices(s.block, s.label)) if s.op in (LINEAR, HEAD) else None
        if s.op == "embedding":
            table = registry.find(s.kernel)
            row = file_bytes(table.layout if table else "", facts.config["d_model"])
            expected = None if row is None else row * facts.n_forwarded
        if expected is not None and s.bytes != expected:
            return check(
                "weight_bytes", "E3", False, s.bytes, expected, f"{s.block}.{s.label}: bytes of its weights times calls"
            )
        if s.op in SCREENED_HEAD:
            wrong = _screened_bytes(facts, s)
            if wrong is not None:
                return wrong
        if s.op in ("rmsnorm", "rmsnorm_quantize"):
            width = next((facts.shapes[n][0] for n in matrices(s.block, s.label) if n in facts.shapes), None)
            if width is not None and s.bytes != 4 * width * s.calls:
                return check(
                    "weight_bytes", "E3", False, s.bytes, 4 * width * s.calls, f"{s.block}.{s.label}: its gamma a call"
                )
    return check("weight_bytes", "E3", True)


def _screened_bytes(facts: Facts, s: StepWork) -> Check | None:
    """The high halves of the plane once a call; low halves and the head itself by rows."""
    vocab, width = facts.config["vocab_size"], facts.config["d_model"]
    entry = registry.find(s.kernel)
    high, low = plane_bytes(vocab, width)
    if s.op == "screen":
        # A call whose hidden states have no bounds reads nothing.
        expected = min(s.calls, s.bytes // high) * high
    elif s.op == "refine":
        expected = s.macs // width * (low // (-(-vocab // PANEL_ROWS) * PANEL_ROWS))
    else:
        row = file_bytes(entry.layout if entry else "", width)
        expected = 0 if row is None else s.macs // width * row
    if s.bytes == expected:
        return None
    return check("weight_bytes", "E3", False, s.bytes, expected, f"{s.label}: the plane a call, then rows")


def _expected(facts: Facts, s: StepWork, names: list[str]) -> int | None:
    """What all calls of a step read; where one token leaves out rows or columns, those that it multiplied, and a scale a call."""
    entry, calls = registry.find(s.kernel), s.calls
    if entry is None:
        return None
    if entry.layout in registry.SKIP_REASONS:
        n, k = facts.shapes.get(names[0], [1, 1])
        is_one = "_gemv_" in entry.id
        if entry.layout == "i2s_columns":
            return (s.macs // n if is_one else k * calls) * column_bytes(n) + 4 * calls
        return (s.macs // k if is_one else n * calls) * (k // 4) + 4 * calls
    if entry.op == HEAD:
        size = file_bytes(entry.layout, facts.config["vocab_size"] * facts.config["d_model"])
        return None if size is None else size * calls
    if entry.layout not in PANELS:
        return None
    shapes = [facts.shapes.get(name, [0, 0]) for name in names]
    panels = sum(-(-shape[0] // PANEL_ROWS) for shape in shapes)
    return panels * (panel_bytes(entry.layout, shapes[0][-1]) + PANELS[entry.layout][2]) * calls


def _cache(facts: Facts) -> Check:
    c = facts.config
    read = 2 * facts.vector_bytes * c["n_kv_heads"] * facts.n_seen
    expected = {ATTENTION: read, "rope_kv": 4 * c["head_dim"] * facts.n_forwarded}
    for s in facts.steps:
        if s.op in expected and s.bytes != expected[s.op]:
            return check("cache_bytes", "E3", False, s.bytes, expected[s.op], f"{s.block}.{s.label}")
        if s.op not in READERS and s.op not in expected and s.bytes:
            return check(
                "cache_bytes", "E3", False, s.bytes, 0, f"{s.block}.{s.label}: it reads no weights and no cache"
            )
    return check("cache_bytes", "E3", True)
