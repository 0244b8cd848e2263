"""Graph and plan: structure, hashes, costs, and what a wrong file gets."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from tiny_models import TINY, write_tiny
from tritium import backends
from tritium.backends.cpu import CpuBackend
from tritium.backends.kernel_choice import KernelChoice
from tritium.engine.kv import block_bytes
from tritium.errors import FormatError, ShapeError, UnsupportedError
from tritium.formats.gguf import open_gguf
from tritium.graph import graph_hash, with_cache
from tritium.ir import Graph, Plan
from tritium.kernel_table import kernel_table
from tritium.models import architectures, build_graph
from tritium.numerics import KV_BLOCK
from tritium.ops import SCREENED_HEAD
from tritium.plan import make_plan
from tritium.plan_view import describe, kv_bytes_per_token, step_costs, to_json


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Graph]:
    folder = tmp_path_factory.mktemp("tiny")
    made = {}
    for name in TINY:
        with open_gguf(write_tiny(folder / f"{name}.gguf", name)) as file:
            made[name] = build_graph(file)
    return made


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_buffers_that_live_together_do_not_overlap(graphs: dict[str, Graph], name: str, backend: str) -> None:
    plan = make_plan(graphs[name], backends.find(backend), max_tokens=5, max_outputs=3)
    lives: dict[int, tuple[int, int]] = {}
    for i, step in enumerate(plan.steps):
        for operand in (*step.inputs, *step.outputs):
            first, _ = lives.get(operand.buffer, (i, i))
            lives[operand.buffer] = first, i
    rows = {"tokens": 5, "outputs": 3}
    sizes = {"f32": 4, "i8": 1, "i16": 2, "i32": 4}
    spans = [(b.offset, b.offset + rows[b.domain] * b.width * sizes[b.dtype]) for b in plan.buffers]
    for a in lives:
        assert spans[a][1] <= plan.arena_bytes
        for b in lives:
            together = lives[a][0] <= lives[b][1] and lives[b][0] <= lives[a][1]
            assert a == b or not together or spans[a][1] <= spans[b][0] or spans[b][1] <= spans[a][0]


def test_the_graph_hash_is_the_meaning_and_the_plan_hash_the_machine(graphs: dict[str, Graph]) -> None:
    graph = graphs["relu2_mha_tied"]
    cpu, reference = (make_plan(graph, backends.find(name)) for name in ("cpu", "reference"))
    assert cpu.graph_hash == reference.graph_hash == graph_hash(graph)
    assert cpu.hash != reference.hash
    assert make_plan(graph, backends.find("cpu")).hash == cpu.hash
    other = replace(graph, config=replace(graph.config, norm_eps=1e-6))
    assert graph_hash(other) != graph_hash(graph)


def linears(plan: Plan) -> list[str]:
    return [step.label for step in plan.steps if step.op == "linear" and step.block == 0]


def test_the_native_plan_is_fused_and_the_reference_is_not(graphs: dict[str, Graph]) -> None:
    graph = graphs["relu2_mha_tied"]
    fused, plain = (make_plan(graph, backends.find(name)) for name in ("cpu", "reference"))
    assert linears(fused) == ["attn_q+attn_k+attn_v", "attn_output", "ffn_gate+ffn_up", "ffn_down"]
    assert linears(plain) == ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    assert [s.op for s in fused.steps if s.block == 0] == [
        "rmsnorm_quantize", "linear", "rope_kv", "attention", "rmsnorm_quantize", "linear",
        "rmsnorm_quantize", "linear", "relu2_mul", "rmsnorm_quantize", "linear",
    ]  # fmt: skip


def test_every_kernel_list_covers_every_t(graphs: dict[str, Graph]) -> None:
    for graph in graphs.values():
        for step in make_plan(graph, backends.find("cpu")).steps:
            needed = 1
            for choice in step.choices:
                assert choice.t_min == needed
                needed = choice.t_max + 1
            assert step.choices[-1].t_max == 0


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_costs_add_up_to_the_matrices(graphs: dict[str, Graph], backend: str) -> None:
    for name, graph in graphs.items():
        plan = make_plan(graph, backends.find(backend))
        costs = step_costs(plan, n_tokens=3, kv_len=7, n_outputs=1)
        c = graph.config
        matrices = [w for w in graph.weights.values() if w.layout == "i2_s"]
        body = 3 * sum(w.shape[0] * w.shape[1] for w in matrices)
        attention = 3 * c.n_layers * 2 * c.n_heads * c.head_dim * 7
        head = c.vocab_size * c.d_model
        assert sum(cost.macs for cost in costs) == body + attention + head, name
        assert kv_bytes_per_token(plan) == 4 * c.n_layers * c.n_kv_heads * c.head_dim == block_bytes(c) // KV_BLOCK


def test_a_screened_head_is_another_plan_of_the_same_graph(graphs: dict[str, Graph]) -> None:
    backend = backends.find("cpu")
    for name in ("relu2_mha_tied", "relu2_gqa_untied_bf16", "llama_mha_tied_f32", "llama_mha_untied_q6_k"):
        plain, screened = (make_plan(graphs[name], backend, head_screen=screen) for screen in ("off", "on"))
        assert plain.graph_hash == screened.graph_hash
        assert plain.hash != screened.hash
        assert [s.op for s in screened.steps[-7:]] == [*SCREENED_HEAD, "logits_projection", "select", "tail"]
        assert [s.op for s in plain.steps[-2:]] == ["logits_projection", "select"]
        assert screened.steps[-4].outputs == screened.steps[-3].outputs
        planes = [r for r in screened.residents if r.layout == "plane44"]
        assert [(r.rows, r.cols) for r in planes] == [(plain.vocab_size, graphs[name].config.d_model)]
        data = to_json(screened)
        assert [s["for_candidates"] for s in data["steps"][-7:]] == [True] * 4 + [False, True, True]
        assert "not in the total" in describe(screened)


def test_the_bounds_of_a_screen_overlap_nothing_that_is_needed(graphs: dict[str, Graph]) -> None:
    """The hidden state outlives the step: the full head may read it again."""
    plan = make_plan(graphs["relu2_mha_tied"], backends.find("cpu"), head_screen="on")
    for step in plan.steps[-7:]:
        needed = {plan.buffers[o.buffer] for o in (*step.inputs, *step.outputs, *plan.steps[-3].inputs)}
        spans = sorted((b.offset, b.offset + b.width * 4 * plan.max_outputs) for b in needed)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_a_small_vocabulary_is_screened_only_when_asked(graphs: dict[str, Graph]) -> None:
    graph, backend = graphs["relu2_mha_tied"], backends.find("cpu")
    assert make_plan(graph, backend).hash == make_plan(graph, backend, head_screen="off").hash
    assert backend.head_plane("f16", 128256, 2560, "auto") == "plane44"
    assert backend.head_plane("q6_k", 128256, 2560, "auto") == "plane44"
    assert backend.head_plane("f16", 128256, 1 << 17, "auto") is None
    assert backends.find("reference").head_plane("f16", 128256, 2560, "auto") is None


def test_a_head_that_cannot_be_screened_is_refused(graphs: dict[str, Graph]) -> None:
    with pytest.raises(UnsupportedError, match="cannot be screened"):
        make_plan(graphs["relu2_mha_tied"], backends.find("reference"), head_screen="on")
    with pytest.raises(UnsupportedError, match="cannot be screened"):
        backends.find("cpu").head_plane("f16", 128256, 1 << 17, "on")
    with pytest.raises(ShapeError, match="head_screen"):
        make_plan(graphs["relu2_mha_tied"], backends.find("cpu"), head_screen="yes")


def test_zeros_are_left_out_only_where_a_gate_closes(graphs: dict[str, Graph]) -> None:
    backend = CpuBackend(("avx512vnni", "scalar"))
    for name, graph in graphs.items():
        dense = make_plan(graph, backend, ffn_sparsity="off")
        assert make_plan(graph, backend).hash == dense.hash, "small matrices have one layout"
        if "relu2" not in name:
            with pytest.raises(UnsupportedError, match="no zeros"):
                make_plan(graph, backend, ffn_sparsity="on")
            continue
        sparse = make_plan(graph, backend, ffn_sparsity="on")
        assert (sparse.graph_hash, sparse.hash == dense.hash) == (dense.graph_hash, False)
        steps = {s.label: s for s in sparse.steps if s.block == 0 and s.op == "linear"}
        down = [sparse.residents[c.residents[0]].layout for c in steps["ffn_down"].choices]
        assert down == ["i2s_columns"] * 2
        assert [c.t_min for c in steps["ffn_down"].choices] == [1, 2]
        by_rows = graph.config.d_model % 128 == 0
        assert ("ffn_up" in steps) == by_rows
        if by_rows:
            up = steps["ffn_up"]
            assert [sparse.residents[c.residents[0]].layout for c in up.choices] == ["i2_s"] * 2
            assert up.inputs[2:] == steps["ffn_gate"].outputs
    with pytest.raises(UnsupportedError, match="no zeros"):
        make_plan(graphs["relu2_mha_tied"], backends.find("reference"), ffn_sparsity="on")
    with pytest.raises(ShapeError, match="ffn_sparsity"):
        make_plan(graphs["relu2_mha_tied"], backend, ffn_sparsity="yes")


def test_large_matrices_are_sparse_where_kernels_are_tuned() -> None:
    def rows(isa: str, layout: str) -> str | None:
        return CpuBackend((isa,)).sparse_layout(layout, 6912, 2560, by_columns=False, ffn_sparsity="auto")

    assert [rows(isa, "i2_s") for isa in ("avx512vnni", "avx2")] == ["i2_s"] * 2
    assert [rows(isa, "i2_s") for isa in ("neondot", "scalar")] == [None, None]
    assert {rows("avx2", layout) for layout in ("i2_s", "tq1_0", "tq2_0")} == {rows("avx2", "i2_s")}
    assert [rows("avx2", layout) for layout in ("i2_s_64", "i2_s_4row")] == [None] * 2
    by_columns = CpuBackend(("avx2",)).sparse_layout("i2_s_64", 2560, 6912, by_columns=True, ffn_sparsity="auto")
    assert by_columns == "i2s_columns"


def test_panels_are_of_2_bits_unless_others_are_asked_for_or_quicker(graphs: dict[str, Graph]) -> None:
    def layouts(plan: Plan) -> set[str]:
        return {r.layout for r in plan.residents if r.layout in ("i2s", "tq1")}

    graph, backend = graphs["relu2_mha_tied"], CpuBackend(("avx2", "scalar"))
    plain, dense = make_plan(graph, backend, weight_layout="2bit"), make_plan(graph, backend, weight_layout="1.6bit")
    assert (layouts(plain), layouts(dense)) == ({"i2s"}, {"tq1"})
    assert (plain.graph_hash, plain.hash == dense.hash) == (dense.graph_hash, False)
    assert make_plan(graph, backend).hash == plain.hash, "small matrices are not timed"
    for step in dense.steps:
        if step.op == "linear":
            assert [c.kernel for c in step.choices] == ["tq1_gemv_avx2", "tq1_gemm_avx2"]
    for name in ("reference", "null"):
        with pytest.raises(UnsupportedError, match="no choice of layouts"):
            make_plan(graph, backends.find(name), weight_layout="2bit")
    with pytest.raises(ShapeError, match="weight_layout"):
        make_plan(graph, backend, weight_layout="i2s")


def test_large_matrices_take_the_quicker_layout() -> None:
    asked: list[tuple[int, int]] = []

    def layout(tq1_ns: float, *isas: str, n: int = 6912, wish: str = "auto") -> str:
        def measure(n: int, k: int, layouts: tuple[str, ...]) -> dict[str, float]:
            asked.append((n, k))
            return {"i2s": 100.0, "tq1": tq1_ns}

        choice = KernelChoice(isas, time_layouts=measure)
        return choice.linear_layout("i2_s", n, 2560, wish)

    assert [layout(ns, "avx2") for ns in (90, 99, 102, 104)] == ["tq1", "tq1", "tq1", "i2s"]
    assert asked == [(6912, 2560)] * 4
    assert layout(50, "avx2", n=16) == "i2s"
    assert layout(50, "scalar") == "i2s", "nobody tuned its kernels"
    assert layout(50, "avx2", wish="2bit") == "i2s"
    assert layout(500, "avx2", wish="1.6bit") == "tq1"
    assert len(asked) == 4
    assert (
        KernelChoice(("avx2",), time_layouts=lambda *_: {"i2s": 2, "tq1": 1}).linear_layout(
            "i2_s", 2560, (1 << 16) + 1, "auto"
        )
        == "i2s"
    )
    with pytest.raises(UnsupportedError, match="too deep"):
        CpuBackend(("avx2",)).linear_layout("i2_s", 2560, (1 << 16) + 1, "1.6bit")
    assert CpuBackend(("avx2",)).linear_layout("i2_s", 6912, 2560, "auto") == "i2s"


def test_kernels_that_do_not_run_here_give_way_to_the_next_ones() -> None:
    """As on a processor with AVX-512 that cannot permute bytes."""
    usable = frozenset(row.id for row in kernel_table() if not row.id.startswith("tq1_ge") or row.isa != "avx512vnni")
    attrs = {"group": 0, "act_bits": 8}
    ids = [row.id for row in KernelChoice(("avx512vnni", "avx2"), usable).kernels("linear", "tq1", attrs)]
    assert ids == ["tq1_gemv_avx2", "tq1_gemm_avx2"]


def test_a_plan_prints_on_a_screen_and_as_json(graphs: dict[str, Graph]) -> None:
    plan = make_plan(graphs["llama_mha_tied_f32"], backends.find("cpu"))
    text = describe(plan)
    assert "× 3 layers" in text
    assert len(text.splitlines()) <= 25
    assert max(map(len, text.splitlines())) <= 145
    data = json.loads(json.dumps(to_json(plan)))
    assert len(data["steps"]) == len(plan.steps)
    assert data["plan_hash"] == plan.hash


def test_limits_are_checked(graphs: dict[str, Graph]) -> None:
    graph, backend = graphs["relu2_mha_tied"], backends.find("reference")
    with pytest.raises(ShapeError, match="max_context"):
        make_plan(graph, backend, max_context=graph.config.max_context + 1)
    with pytest.raises(ShapeError, match="limits"):
        make_plan(graph, backend, max_tokens=0)
    with pytest.raises(UnsupportedError, match="unknown back end"):
        backends.find("tpu")
    with pytest.raises(UnsupportedError, match="unknown device"):
        backends.resolve("tpu")


def test_architectures_are_found_by_file() -> None:
    assert set(architectures()) == {"bitnet-b1.58", "bitnet-25", "bitnet", "llama"}


KEY = "bitnet-b1.58"


@pytest.mark.parametrize(
    ("key", "value", "error", "text"),
    [
        ("general.architecture", "rwkv", UnsupportedError, "unknown architecture"),
        ("general.architecture", None, FormatError, "general.architecture"),
        (f"{KEY}.block_count", None, FormatError, f"missing key: {KEY}.block_count"),
        (f"{KEY}.block_count", 0, FormatError, "out of range"),
        (f"{KEY}.block_count", 3, FormatError, "missing tensor: blk.2."),
        (f"{KEY}.block_count", 1, UnsupportedError, "does not read: blk.1."),
        (f"{KEY}.embedding_length", 1 << 40, FormatError, "out of range"),
        (f"{KEY}.feed_forward_length", 128, FormatError, "wrong shape: blk.0.ffn_gate.weight"),
        (f"{KEY}.attention.head_count_kv", 3, FormatError, "do not divide"),
        (f"{KEY}.attention.layer_norm_rms_epsilon", float("nan"), FormatError, "out of range"),
        (f"{KEY}.vocab_size", 5, FormatError, "vocabulary and embedding differ"),
        (f"{KEY}.rope.dimension_count", 16, UnsupportedError, "partial rotation"),
        (f"{KEY}.rope.scaling.type", "yarn", UnsupportedError, "RoPE scaling"),
        (f"{KEY}.attention.value_length", 16, UnsupportedError, "differ in length"),
    ],
)
def test_bad_hyperparameters_are_named(
    tmp_path: Path, key: str, value: object, error: type[Exception], text: str
) -> None:
    with open_gguf(write_tiny(tmp_path / "m.gguf", "relu2_mha_tied")) as file:
        metadata = {**file.metadata, key: value}
        if value is None:
            del metadata[key]
        with pytest.raises(error, match=text.replace(".", r"\.")):
            build_graph(SimpleNamespace(metadata=metadata, tensors=file.tensors, scale=file.scale))


def test_a_dense_linear_is_refused(tmp_path: Path) -> None:
    with open_gguf(write_tiny(tmp_path / "m.gguf", "relu2_mha_tied")) as file:
        name = "blk.0.attn_q.weight"
        tensors = {**file.tensors, name: replace(file.tensors[name], layout="f16")}
        with pytest.raises(UnsupportedError, match="not ternary: blk.0.attn_q.weight"):
            build_graph(SimpleNamespace(metadata=file.metadata, tensors=tensors, scale=file.scale))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_cache_of_int8_is_another_meaning_in_half_the_bytes(graphs: dict[str, Graph], backend: str) -> None:
    graph = graphs["relu2_gqa_tied_chat"]
    c = graph.config
    plain, small = (make_plan(with_cache(graph, kv), backends.find(backend)) for kv in ("f16", "int8"))
    assert plain.graph_hash != small.graph_hash
    assert [s.label for s in plain.steps] == [s.label for s in small.steps]
    assert (
        kv_bytes_per_token(small)
        == 2 * c.n_layers * c.n_kv_heads * (c.head_dim + 4)
        == block_bytes(c, "int8") // KV_BLOCK
    )
    read = [sum(cost.activation_bytes for cost in step_costs(plan, 1, 1001)) for plan in (plain, small)]
    once = [sum(cost.activation_bytes for cost in step_costs(plan, 1, 1)) for plan in (plain, small)]
    assert [all_ - first for all_, first in zip(read, once, strict=True)] == [
        1000 * kv_bytes_per_token(plan) for plan in (plain, small)
    ]
    with pytest.raises(ShapeError, match=r"kv: expected f16 or int8"):
        with_cache(graph, "int4")
