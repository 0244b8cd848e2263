"""The native executor's border: malformed plans, residents and batches are refused, numbers out of range are reported."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tiny_models import write_tiny
from tritium import _native, backends
from tritium.backends import cpu
from tritium.formats.gguf import open_gguf
from tritium.ir import Buffer, Choice, Operand, Plan, Resident, Step, encode_plan
from tritium.models import build_graph
from tritium.numerics import rope_tables
from tritium.ops import OPS
from tritium.plan import make_plan

KV_BLOCKS = 6
HEADER = struct.calcsize("<8s12IQ")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, list[NDArray[np.uint8]]]:
    """A whole model's plan with its weights."""
    path = write_tiny(tmp_path_factory.mktemp("tiny") / "model.gguf", "relu2_mha_tied")
    with open_gguf(path) as file:
        graph = build_graph(file)
        plan = make_plan(graph, backends.find("cpu"), max_tokens=8, max_outputs=4, max_context=200)
        tables = dict(zip(("rope.cos", "rope.sin"), rope_tables(200, plan.head_dim, 1e4), strict=True))
        return plan, [np.array(cpu._resident(r, file, tables, 1)) for r in plan.residents]


def program(plan: Plan | bytes, residents: list[NDArray[np.uint8]], n_threads: int = 1) -> Any:
    binary = plan if isinstance(plan, bytes) else encode_plan(plan, OPS)
    return _native.Program(binary, residents, KV_BLOCKS, n_threads)


def i32(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def batch(**changes: Any) -> dict[str, Any]:
    """Two sequences, three tokens, one output with two candidates."""
    return {
        "tokens": i32(1, 2, 3),
        "positions": i32(0, 1, 70),
        "slots": i32(0, 0, 1),
        "block_tables": np.array([[0, 1], [2, 3]], np.int32),
        "outputs": i32(2),
        "top_k": 2,
        "logits": None,
        "ids": np.empty((1, 2), np.int32),
        "values": np.empty((1, 2), np.float32),
    } | changes


def test_a_good_plan_runs(tiny: tuple[Plan, list[NDArray[np.uint8]]]) -> None:
    native = program(*tiny)
    arguments = batch()
    assert native.step(_native.Request(**arguments)) == 0
    assert native.failure() == ("none", -1, -1)
    assert native.totals()[:2] == (1, 3)
    assert arguments["values"][0, 0] >= arguments["values"][0, 1]


def test_every_truncation_is_refused(tiny: tuple[Plan, list[NDArray[np.uint8]]]) -> None:
    plan, residents = tiny
    binary = encode_plan(plan, OPS)
    for length in range(len(binary)):
        with pytest.raises(ValueError, match=r"plan: "):
            program(binary[:length], residents)
    with pytest.raises(ValueError, match="1 bytes follow its end"):
        program(binary + b"\0", residents)


def test_every_changed_byte_is_refused_or_harmless(tiny: tuple[Plan, list[NDArray[np.uint8]]]) -> None:
    plan, residents = tiny
    binary = encode_plan(plan, OPS)
    refused = 0
    for at in range(len(binary)):
        for value in {0, 0xFF, binary[at] ^ 1, binary[at] ^ 0x80} - {binary[at]}:
            changed = bytearray(binary)
            changed[at] = value
            try:
                native = program(bytes(changed), residents)
                native.step(_native.Request(**batch()))
            except (ValueError, MemoryError):
                refused += 1
    assert refused > len(binary)


@pytest.mark.parametrize("field", range(1, 4))
@pytest.mark.parametrize("count", [1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_absurd_counts_are_refused(tiny: tuple[Plan, list[NDArray[np.uint8]]], field: int, count: int) -> None:
    plan, residents = tiny
    binary = bytearray(encode_plan(plan, OPS))
    struct.pack_into("<I", binary, 8 + 4 * field, count)
    with pytest.raises(ValueError, match="plan: "):
        program(bytes(binary), residents)


def _step(plan: Plan, index: int, **changes: Any) -> Plan:
    steps = list(plan.steps)
    steps[index] = replace(steps[index], **changes)
    return replace(plan, steps=tuple(steps))


def _attrs(plan: Plan, op: str, **changes: float) -> Plan:
    index = next(i for i, s in enumerate(plan.steps) if s.op == op)
    return _step(plan, index, attrs={**plan.steps[index].attrs, **changes})


def _buffer(plan: Plan, **changes: Any) -> Plan:
    return replace(plan, buffers=(replace(plan.buffers[0], **changes), *plan.buffers[1:]))


def _resident(plan: Plan, layout: str, /, **changes: Any) -> Plan:
    index = next(i for i, r in enumerate(plan.residents) if r.layout == layout)
    residents = list(plan.residents)
    residents[index] = replace(residents[index], **changes)
    return replace(plan, residents=tuple(residents))


def _choices(plan: Plan, *choices: Choice) -> Plan:
    return _step(plan, 0, choices=choices)


BAD_PLANS: dict[str, tuple[Callable[[Plan], Plan], str]] = {
    "arena": (lambda p: replace(p, arena_bytes=64), "past the arena"),
    "arena_huge": (lambda p: replace(p, arena_bytes=2**60), "arena_bytes"),
    "no_tokens": (lambda p: replace(p, max_tokens=0), "max_tokens"),
    "more_tokens": (lambda p: replace(p, max_tokens=2**24), "past the arena"),
    "block": (lambda p: replace(p, kv_block=48), "kv_block"),
    "odd_head": (lambda p: replace(p, head_dim=31), "head_dim"),
    "wide_head": (lambda p: replace(p, head_dim=258), "head_dim"),
    "context": (lambda p: replace(p, max_context=201), "rope_kv: expected tables of max_context rows"),
    "vocabulary": (lambda p: replace(p, vocab_size=268), "embedding: expected the plan's vocab_size"),
    "offset": (lambda p: _buffer(p, offset=32), "multiples of 64"),
    "offset_huge": (lambda p: _buffer(p, offset=2**64 - 64), "past the arena"),
    "width": (lambda p: _buffer(p, width=8), "multiples of 64"),
    "width_huge": (lambda p: _buffer(p, width=2**32 - 16), "buffer width"),
    "narrow": (lambda p: _buffer(p, width=16), "expected 128 columns, got 16"),
    "dtype": (lambda p: _buffer(p, dtype="i32"), "another dtype"),
    "domain": (lambda p: _buffer(p, domain="outputs"), "embedding: expected an output of the domain tokens"),
    "resident_size": (lambda p: _resident(p, "i2s", nbytes=1), "bytes, got 1"),
    "resident_rows": (lambda p: _resident(p, "i2s", rows=40), "cannot hold 40 x"),
    "resident_layout": (lambda p: _resident(p, "f16", layout="f15"), "layout f15 cannot hold"),
    "no_buffer": (lambda p: _step(p, 0, outputs=(Operand(99, 0),)), "buffer 99 does not exist"),
    "column": (lambda p: _step(p, 0, outputs=(Operand(0, 128),)), "column 128 of buffer 0"),
    "odd_column": (lambda p: _step(p, 0, outputs=(Operand(0, 8),)), "column 8 of buffer 0"),
    "no_operand": (lambda p: _step(p, 0, outputs=()), "embedding: a wrong number"),
    "no_kernel": (lambda p: _choices(p), "embedding: a wrong number"),
    "unknown_kernel": (lambda p: _choices(p, Choice("nothing", 1, 0, (0,))), "kernel nothing does not run here"),
    "other_kernel": (lambda p: _choices(p, Choice("select_topk_scalar", 1, 0, (0,))), "another op, layout or T"),
    "other_layout": (
        lambda p: _choices(p, Choice("embedding_lookup_f32_scalar", 1, 0, (0,))),
        "another op, layout or T",
    ),
    "gap": (lambda p: _choices(p, Choice("embedding_lookup_f16_scalar", 1, 3, (0,))), "no kernel for T = 4"),
    "empty_range": (lambda p: _choices(p, Choice("embedding_lookup_f16_scalar", 3, 2, (0,))), "an empty range of T"),
    "no_resident": (lambda p: _choices(p, Choice("embedding_lookup_f16_scalar", 1, 0, (999,))), "resident 999"),
    "resident_count": (lambda p: _choices(p, Choice("embedding_lookup_f16_scalar", 1, 0, ())), "expected 1 residents"),
    "layer": (lambda p: _attrs(p, "attention", layer=2), "attention: expected a layer of the cache"),
    "heads": (lambda p: _attrs(p, "attention", n_heads=5), "n_heads a multiple"),
    "many_heads": (lambda p: _attrs(p, "attention", n_heads=8), "expected 256 columns"),
    "depth": (lambda p: _attrs(p, "linear", k=144), "linear: expected a weight of k columns"),
    "negative": (lambda p: _attrs(p, "linear", n=-1), "linear: expected n above 0"),
    "group": (lambda p: _attrs(p, "linear", group=64), "group 0 or 256"),
    "group of panels without": (lambda p: _attrs(p, "linear", group=256), "a ternary layout that it can read"),
    "bits": (lambda p: _attrs(p, "rmsnorm_quantize", act_bits=16), "act_bits 8"),
    "eps": (lambda p: _attrs(p, "rmsnorm_quantize", eps=float("nan")), "a finite eps"),
}


@pytest.mark.parametrize("name", BAD_PLANS)
def test_bad_plans_are_refused(tiny: tuple[Plan, list[NDArray[np.uint8]]], name: str) -> None:
    plan, residents = tiny
    spoil, message = BAD_PLANS[name]
    with pytest.raises(ValueError, match=message):
        program(spoil(plan), residents)


def test_residents_must_fit_the_plan(tiny: tuple[Plan, list[NDArray[np.uint8]]]) -> None:
    plan, residents = tiny
    with pytest.raises(ValueError, match="residents: expected"):
        program(plan, residents[:-1])
    with pytest.raises(ValueError, match="resident 0: expected"):
        program(plan, [residents[0][:-1], *residents[1:]])
    shifted = np.concatenate([np.zeros(1, np.uint8), residents[0]])[1:]
    with pytest.raises(ValueError, match="resident 0: not aligned"):
        program(plan, [shifted, *residents[1:]])
    for blocks in (0, -1, 2**30):
        with pytest.raises(ValueError, match="kv_blocks"):
            _native.Program(encode_plan(plan, OPS), residents, blocks, 1)


BAD_BATCHES: dict[str, tuple[dict[str, Any], str]] = {
    "no_tokens": ({"tokens": i32(), "positions": i32(), "slots": i32()}, "tokens: expected 1 to 8, got 0"),
    "many_tokens": ({"tokens": np.zeros(9, np.int32)}, "tokens: expected 1 to 8, got 9"),
    "lengths": ({"positions": i32(0, 1)}, "expected one for each of 3 tokens"),
    "token": ({"tokens": i32(1, 2, 267)}, "token: expected 0 to 266, got 267 in row 2"),
    "negative_token": ({"tokens": i32(-1, 2, 3)}, "got -1 in row 0"),
    "position": ({"positions": i32(0, 1, 200)}, "position: expected 0 to 199, got 200"),
    "slot": ({"slots": i32(0, 0, 2)}, "slot: expected 0 to 1, got 2"),
    "block": ({"block_tables": np.array([[0, 1], [2, 6]], np.int32)}, "block: expected 0 to 5, got 6"),
    "negative_block": ({"block_tables": np.array([[-1, 1], [2, 3]], np.int32)}, "got -1 in row 0"),
    "short_table": ({"block_tables": np.array([[0], [2]], np.int32)}, "position 70 needs 2 blocks, got 1"),
    "same_place": ({"positions": i32(0, 0, 70)}, "two tokens have the same place"),
    "output": ({"outputs": i32(3)}, "ascending rows below 3, got 3"),
    "order": ({"outputs": i32(2, 1)}, "got 1 in row 1"),
    "top_k": ({"top_k": 268}, "top_k|ids"),
    "no_arrays": ({"ids": None}, "arrays for ids and values"),
    "shape": ({"values": np.empty((1, 3), np.float32)}, r"values: expected shape \(1, 2\), got \(1, 3\)"),
    "logits_shape": ({"logits": np.empty((1, 266), np.float32)}, r"logits: expected shape \(1, 267\)"),
}


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_bad_batches_are_refused(tiny: tuple[Plan, list[NDArray[np.uint8]]], name: str) -> None:
    changes, message = BAD_BATCHES[name]
    arguments = batch(**changes)
    if "outputs" in changes and len(changes["outputs"]) == 2:
        arguments |= {"ids": np.empty((2, 2), np.int32), "values": np.empty((2, 2), np.float32)}
    native = program(*tiny)
    with pytest.raises(ValueError, match=message):
        native.step(_native.Request(**arguments))
    assert native.totals() == (0, 0, 0)


def test_unused_table_entries_may_be_anything(tiny: tuple[Plan, list[NDArray[np.uint8]]]) -> None:
    assert program(*tiny).step(_native.Request(**batch(block_tables=np.array([[0, -1], [2, 3]], np.int32)))) == 0


def test_wrong_dtypes_are_no_argument_at_all(tiny: tuple[Plan, list[NDArray[np.uint8]]]) -> None:
    with pytest.raises(TypeError):
        program(*tiny).step(_native.Request(**batch(tokens=np.zeros(3, np.int64))))


def test_outputs_steps_run_only_when_asked_for(tiny: tuple[Plan, list[NDArray[np.uint8]]]) -> None:
    plan, residents = tiny
    native = program(plan, residents)
    assert native.step(_native.Request(**batch(outputs=i32(), ids=None, values=None))) == 0
    for step, _, calls, *_ in native.counters():
        domain = plan.buffers[plan.steps[step].outputs[0].buffer].domain
        assert calls == (0 if domain == "outputs" else calls)
    logits = np.empty((1, 267), np.float32)
    assert native.step(_native.Request(**batch(top_k=0, logits=logits, ids=None, values=None))) == 0
    ran = {plan.steps[step].op for step, _, calls, *_ in native.counters() if calls}
    assert "logits_projection" in ran
    assert "select" not in ran


def test_counters_count(tiny: tuple[Plan, list[NDArray[np.uint8]]]) -> None:
    plan, residents = tiny
    native = program(plan, residents, n_threads=3)
    for _ in range(2):
        native.step(_native.Request(**batch()))
    for step, choice, calls, macs, skipped, nbytes, _ in native.counters():
        row, chosen = plan.steps[step], plan.steps[step].choices[choice]
        outputs = plan.buffers[row.outputs[0].buffer].domain == "outputs"
        t = 1 if outputs else 3
        used = chosen.t_min <= t and (chosen.t_max == 0 or t <= chosen.t_max)
        assert calls == (2 if used else 0)
        if row.op == "linear" and used:
            assert macs == 2 * OPS["linear"].cost(row.attrs, t, 0).macs
            assert nbytes >= 2 * row.attrs["n"] * row.attrs["k"] // 4
        assert skipped == 0
    native.reset_counters()
    assert native.totals() == (0, 0, 0)
    assert not native.counters()[:, 2:].any()


def one_step(op: str, attrs: dict[str, float], n_in: int, kernel: str, residents: tuple[Resident, ...] = ()) -> Plan:
    """A plan of one step on float32 buffers of 64 columns: n_in inputs, then the output."""
    buffers = tuple(Buffer(str(i), "f32", "tokens", 64, 4 * 64 * 4 * i) for i in range(n_in + 1))
    operands = tuple(Operand(i, 0) for i in range(n_in + 1))
    choice = Choice(kernel, 1, 0, tuple(range(len(residents))))
    step = Step(op, op, 0, operands[:n_in], operands[n_in:], attrs, (choice,))
    return Plan(
        "", "cpu", "", "", 4, 4, 64, 10, 1, 2, 8, 64, 4 * 64 * 4 * (n_in + 1), 1e4, (), buffers, residents, (step,)
    )


def test_a_key_beyond_float16_is_reported() -> None:
    tables = tuple(Resident((name,), "f32", 64, 4, 1024) for name in ("cos", "sin"))
    attrs = {"layer": 0, "n_heads": 2, "n_kv_heads": 2, "head_dim": 8, "interleaved": 0}
    plan = one_step("rope_kv", attrs, 3, "rope_apply_scalar", tables)
    native = program(plan, [t.reshape(-1).view(np.uint8) for t in rope_tables(64, 8, 1e4)], n_threads=2)
    rows = {
        "tokens": i32(0, 0, 0),
        "positions": i32(0, 1, 2),
        "slots": i32(0, 0, 0),
        "block_tables": np.zeros((1, 1), np.int32),
    }
    rest = {"outputs": i32(), "top_k": 0, "logits": None, "ids": None, "values": None}
    native.buffer(2)[1, 3] = 65504
    assert native.step(_native.Request(**rows, **rest)) == 0
    assert native.kv(0)[1].view(np.float16)[0, 0, 1, 3] == 65504
    native.buffer(2)[1:3, 3] = 65520
    assert native.step(_native.Request(**rows, **rest)) != 0
    assert native.failure() == ("kv_overflow", 0, 1)


def test_a_number_that_is_not_finite_is_reported(tiny: tuple[Plan, list[NDArray[np.uint8]]]) -> None:
    plan, residents = tiny
    table = residents[0].copy()
    table.view(np.float16).reshape(267, -1)[5, 7] = np.inf
    for n_threads in (1, 2, 5):
        native = program(plan, [table, *residents[1:]], n_threads)
        assert native.step(_native.Request(**batch(tokens=i32(1, 5, 5)))) != 0
        assert native.failure() == ("not_finite", 1, 1)
        assert native.step(_native.Request(**batch())) == 0


def test_blocks_are_copied_in_all_layers(tiny: tuple[Plan, list[NDArray[np.uint8]]]) -> None:
    native = program(*tiny)
    native.step(_native.Request(**batch()))
    native.copy_block(2, 5)
    for layer in range(2):
        for half in native.kv(layer):
            assert half[3].any()
            assert (half[5] == half[2]).all()
    with pytest.raises(ValueError, match="copy_block: expected blocks 0 to 5"):
        native.copy_block(0, 6)


def test_views_keep_the_program_alive(tiny: tuple[Plan, list[NDArray[np.uint8]]], tmp_path: Path) -> None:
    native = program(*tiny)
    native.step(_native.Request(**batch()))
    keys, arena, buffer = native.kv(1)[0], native.arena(), native.buffer(0)
    before = keys.copy()
    del native
    assert (keys == before).all()
    assert keys.any()
    arena[:] = 0
    assert not buffer.any()


def sparse_step(layout: str, n: int, k: int, **changes: Any) -> Plan:
    """One linear of n rows and k columns in a layout for one token, with a gate unless ``gated`` is false."""
    gated, accumulate, rows = changes.get("gated", True), changes.get("accumulate", 0), changes.get("rows", n)
    width = -(-n // 16) * 16
    buffers = tuple(
        Buffer(name, dtype, "tokens", w, at)
        for name, dtype, w, at in (("q", "i8", -(-k // 64) * 64, 0), ("scale", "f32", 16, 1 << 20),
                                   ("gate", "f32", changes.get("gate_width", width), 2 << 20), ("out", "f32", width, 3 << 20))
    )  # fmt: skip
    size = n * k // 4 + 32 if layout == "i2_s" else k * -(-rows // 256) * 64 + 64
    name = {"i2_s": "i2s_rows_gemv_scalar", "i2s_columns": "i2s_columns_gemv_scalar"}[layout]
    inputs = tuple(Operand(i, 0) for i in range(3 if gated else 2))
    attrs = {"k": k, "n": n, "group": 0, "act_bits": 8, "accumulate": accumulate}
    step = Step("linear", "w", 0, inputs, (Operand(3, 0),), attrs, (Choice(name, 1, 1, (0,)),))
    return Plan(
        architecture="", backend="cpu", profile="", graph_hash="", max_tokens=1, max_outputs=1, max_context=1,
        vocab_size=16, n_kv_layers=0, n_kv_heads=0, head_dim=0, kv_block=0, arena_bytes=4 << 20, rope_theta=0.0,
        rope_factors=(), buffers=buffers, residents=(Resident(("w",), layout, rows, k, size),), steps=(step,),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        ("i2_s", {"accumulate": 1}, "accumulate 0"),
        ("i2_s", {"accumulate": 1, "gated": False}, "layout"),
        ("i2_s", {"gate_width": 16}, "columns"),
        ("i2s_columns", {"rows": 48, "gated": False}, "k columns"),
    ],
    ids=str,
)
def test_a_sparse_linear_that_cannot_run_is_refused(layout: str, changes: dict[str, Any], message: str) -> None:
    good = sparse_step(layout, 40, 128, gated=layout == "i2_s")
    program(good, [np.zeros(good.residents[0].nbytes, np.uint8)])
    bad = sparse_step(layout, 40, 128, **changes)
    with pytest.raises(ValueError, match=message):
        program(bad, [np.zeros(bad.residents[0].nbytes, np.uint8)])
