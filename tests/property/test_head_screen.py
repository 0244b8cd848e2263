"""A screened head answers what the full head answers: the same ids, the same bits, whatever the hidden state."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

import screening
from tritium import _native
from tritium.ir import Buffer, Choice, Operand, Plan, Resident, Step, encode_plan
from tritium.layouts import LAYOUTS
from tritium.ops import OPS, SCREENED_HEAD

F32 = NDArray[np.float32]
ISAS = tuple(_native.isas())
OUTPUTS = 32
SHAPES = {
    "f16": ((641, 48), (1031, 33), (400, 100), (999, 17)),
    "bf16": ((641, 48), (1031, 33), (400, 100), (999, 17)),
    "f32": ((641, 48), (1031, 33), (400, 100), (999, 17)),
    "q8_0": ((641, 64), (1031, 32), (400, 96), (999, 160)),
    "q6_k": ((641, 256), (300, 256), (129, 512), (999, 256)),
}
LAYOUT_NAMES = tuple(SHAPES)
EVERY_WAY = list(product(ISAS, LAYOUT_NAMES))


@dataclass(frozen=True)
class Heads:
    """One head as two programs: with a plane in front and without."""

    screened: _native.Program
    full: _native.Program
    rows: F32

    def candidates(self, hidden: F32, k: int) -> bool:
        """Ask both for the k best of each hidden state. True if they agree in every bit."""
        n = len(hidden)
        answers = []
        for program in (self.screened, self.full):
            buffer = program.buffer(0)
            buffer[:n, : hidden.shape[1]] = hidden
            ids, values = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
            zeros = np.zeros(n, np.int32)
            outputs = np.arange(n, dtype=np.int32)
            tables = np.zeros((1, 1), np.int32)
            assert not program.step(_native.Request(zeros, zeros, zeros, tables, outputs, k, None, ids, values))
            answers.append((ids.tobytes(), values.tobytes()))
        return answers[0] == answers[1]

    def weighed(self, hidden: F32, k: int, temperatures: F32) -> tuple[NDArray[np.int32], F32, F32, F32]:
        """The screened head's candidates and what it says of the rest, then all logits of each output."""
        n, vocab = len(hidden), len(self.rows)
        self.screened.buffer(0)[:n, : hidden.shape[1]] = hidden
        ids, values, rest = np.empty((n, k), np.int32), np.empty((n, k), np.float32), np.empty((n, 3), np.float32)
        zeros = np.zeros(n, np.int32)
        outputs, tables = np.arange(n, dtype=np.int32), np.zeros((1, 1), np.int32)
        step = self.screened.step
        assert not step(
            _native.Request(
                zeros, zeros, zeros, tables, outputs, k, None, ids, values, temperatures=temperatures, rest=rest
            )
        )
        logits = np.empty((n, vocab), np.float32)
        for i in range(n):
            self.screened.project(i, logits[i])
        return ids, values, rest, logits

    def counted(self) -> dict[str, tuple[int, int, int]]:
        """(calls, MACs, skipped MACs) by op."""
        names = (*SCREENED_HEAD, "logits_projection", "select", "tail")
        return {names[step]: (calls, macs, skipped) for step, _, calls, macs, skipped, _, _ in self.screened.counters()}


def make_heads(values: F32, layout: str, isa: str, n_threads: int = 1, spoiled: float = 0.0) -> Heads:
    vocab, k = values.shape
    data = LAYOUTS[layout].pack(values)
    if spoiled:
        data.view(np.float32)[77 * k + 3] = spoiled
    plane = _native.pack_plane(data, layout, vocab, k, n_threads)
    width, wide = -(-k // 16) * 16, -(-vocab // 16) * 16
    buffers, at = [], 0
    for name, columns in (
        ("hidden", width),
        ("score", wide),
        ("upper", wide),
        ("least", 16),
        ("rest", 16),
        ("logits", wide),
        ("ids", 16),
        ("values", 16),
    ):
        buffers.append(Buffer(name, "i32" if name == "ids" else "f32", "outputs", columns, at))
        at += 4 * OUTPUTS * columns
    hidden, score, upper, least, rest, logits, ids, best = (Operand(i, 0) for i in range(8))
    attrs = {"k": k, "vocab": vocab}

    def step(op: str, kernel: str, inputs: tuple[Operand, ...], outputs: tuple[Operand, ...], *reads: int) -> Step:
        return Step(op, op, -1, inputs, outputs, attrs, (Choice(f"{kernel}_{isa}", 1, 0, reads),))

    steps = (
        step("screen", "screen_plane44", (hidden,), (score, upper), 1),
        step("threshold", f"threshold_{layout}", (hidden, score), (least,), 0),
        step("refine", "refine_plane44", (upper, hidden, score, least), (upper,), 1),
        step("rescore", f"rescore_{layout}", (hidden, upper, least), (logits,), 0),
        step("logits_projection", f"logits_projection_{layout}", (hidden,), (logits,), 0),
        step("select", "select_topk", (logits,), (ids, best)),
        step("tail", "tail_weights", (logits, upper, least, ids, best), (rest,)),
    )
    residents = (Resident(("w",), layout, vocab, k, data.size), Resident(("w",), "plane44", vocab, k, plane.size))

    def program(steps: tuple[Step, ...]) -> _native.Program:
        plan = Plan(
            architecture="", backend="cpu", profile="", graph_hash="", max_tokens=OUTPUTS, max_outputs=OUTPUTS,
            max_context=1, vocab_size=vocab, n_kv_layers=0, n_kv_heads=0, head_dim=0, kv_block=0, arena_bytes=at,
            rope_theta=0.0, rope_factors=(), buffers=tuple(buffers), residents=residents, steps=steps,
        )  # fmt: skip
        return _native.Program(encode_plan(plan, OPS), [data, plane], 1, n_threads)

    return Heads(program(steps), program(steps[4:]), LAYOUTS[layout].unpack(data, (vocab, k)))


def head_rows(g: np.random.Generator, vocab: int, k: int) -> F32:
    """Random rows; among them equal ones, neighbours that differ in one unit in the last place, zeros, tiny, large and spiked."""
    rows = g.standard_normal((vocab, k), np.float32)
    rows[1::7] = rows[0::7][: len(rows[1::7])]
    rows[2::7] = np.nextafter(rows[0::7][: len(rows[2::7])], np.float32(9))
    rows[3] = 0
    rows[4] *= np.float32(1e-6)
    rows[5] *= np.float32(300)
    rows[6::50, 0] = 40
    return rows


def hidden_states(g: np.random.Generator, rows: F32, n: int, kind: int) -> F32:
    k = rows.shape[1]
    h = g.standard_normal((n, k), np.float32)
    near = rows[g.integers(0, len(rows), n)]
    if kind == 1:  # between noise and a row
        h += near * g.uniform(0, 3, (n, 1)).astype(np.float32)
    elif kind == 2:  # a row, whose equals tie with it
        h = near.copy()
    elif kind == 3:  # integers: many sums are exact
        h = np.round(2 * h)
    elif kind == 4:  # every size that has bounds
        h = (h * np.float32(2.0) ** g.integers(-90, 80, (n, 1))).astype(np.float32)
    elif kind == 5:  # one feature outweighs the others
        h[:, 0] = 1000
    elif kind == 6:  # sizes up to the ends of float32
        h = (h * np.float32(2.0) ** g.integers(-149, 125, (n, 1))).astype(np.float32)
    elif kind == 7:  # one feature alone
        h = np.eye(k, dtype=np.float32)[g.integers(0, k, n)]
    return h


KINDS = 8


@pytest.mark.parametrize(("isa", "layout"), EVERY_WAY)
def test_candidates_are_those_of_the_full_head(isa: str, layout: str) -> None:
    """Over a hundred thousand hidden states in all, as the instruction sets share them out."""
    g = np.random.default_rng([ISAS.index(isa), LAYOUT_NAMES.index(layout)])
    n_batches = -(-120_000 // (len(ISAS) * len(LAYOUT_NAMES) * OUTPUTS))
    rescored = decided = 0
    for i, (vocab, k) in enumerate(SHAPES[layout]):
        heads = make_heads(head_rows(g, vocab, k), layout, isa, 1 + i % 2)
        for j in range(-(-n_batches // 4)):
            top_k = (1, 2, 40 if vocab > 320 else 16)[j % 3]
            hidden = hidden_states(g, heads.rows, OUTPUTS, j % KINDS)
            assert heads.candidates(hidden, top_k), f"{vocab} x {k}, batch {j}"
        _, macs, skipped = heads.counted()["rescore"]
        rescored += macs
        decided += macs + skipped
    # Otherwise little would have been compared.
    assert rescored < decided / 2


@pytest.mark.parametrize(("isa", "layout"), EVERY_WAY)
def test_as_many_candidates_as_there_can_be(isa: str, layout: str) -> None:
    g = np.random.default_rng(5)
    heads = make_heads(head_rows(g, 8197, 256 if layout == "q6_k" else 32), layout, isa, 2)
    for top_k, kind in product((1024, 1000), (0, 1)):
        assert heads.candidates(hidden_states(g, heads.rows, OUTPUTS, kind), top_k)


@pytest.mark.parametrize(("isa", "layout"), EVERY_WAY)
def test_the_weight_of_what_is_no_candidate_is_bounded(isa: str, layout: str) -> None:
    """Sure candidates are the best of all logits; the exact weight of the others lies between its bounds."""
    from tritium import numerics

    g = np.random.default_rng([12, ISAS.index(isa)])
    n_sure = 0
    heads = make_heads(head_rows(g, 2500, 256), layout, isa, 2)
    for kind, top_k in product((0, 1, 2, 3, 5, 7), (1, 64, 256)):
        hidden = hidden_states(g, heads.rows, 8, kind)
        hidden[::2] /= np.maximum(np.abs(hidden[::2]).max(axis=1, keepdims=True), np.float32(1e-30))
        temperatures = np.array([0.1, 0.8, 3, 1, 0, 0.8, 10, 1], np.float32)
        ids, values, rest, logits = heads.weighed(hidden, top_k, temperatures)
        assert logits.tobytes() == numerics.project_logits(hidden, heads.rows).tobytes()
        for i in np.flatnonzero((temperatures > 0) & np.isfinite(logits).all(axis=1)):
            n = int(rest[i, 2])
            best, best_values = numerics.top_k(logits[i : i + 1], top_k)
            assert (ids[i, :n] == best[0, :n]).all()
            assert values[i, :n].tobytes() == best_values[0, :n].tobytes()
            exact = np.exp((logits[i].astype(np.float64) - values[i, 0]) / temperatures[i])
            weight = np.delete(exact, ids[i, :n]).sum()
            assert rest[i, 1] <= weight * (1 + 1e-12) + 1e-30
            assert weight * (1 - 1e-12) <= rest[i, 0] + 1e-30
            n_sure += n
    assert n_sure > 200
    # Planes that are not smaller than the head would not spare anything.
    assert bool(heads.counted()["screen"][0]) == (layout in ("f32", "f16", "bf16"))
    with pytest.raises(ValueError, match="no such output"):
        heads.screened.project(8, np.empty(2500, np.float32))


@pytest.mark.parametrize("isa", ISAS)
def test_few_rows_are_rescored_and_the_rest_is_counted_as_skipped(isa: str) -> None:
    g = np.random.default_rng(6)
    rows = g.standard_normal((4099, 256), np.float32)
    heads = make_heads(rows, "f16", isa)
    hidden = (rows[:8] * np.float32(0.5) + g.standard_normal((8, 256), np.float32)).astype(np.float32)
    assert heads.candidates(hidden, 1)
    counted = heads.counted()
    work = 8 * 4099 * 256
    assert counted["screen"] == (1, work, 0)
    assert counted["threshold"] == (1, 8 * 256, 0)
    assert counted["refine"][1] + counted["refine"][2] == work
    assert counted["rescore"][1] + counted["rescore"][2] == work
    assert 8 * 256 <= counted["rescore"][1] <= counted["refine"][1] < work // 20
    assert counted["rescore"][1] < work // 1000
    assert counted["logits_projection"] == (0, 0, 0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0, 3e38], ids=str)
def test_what_has_no_bounds_is_rescored_whole_and_alone(isa: str, bad: float) -> None:
    g = np.random.default_rng(7)
    rows = g.standard_normal((500, 40), np.float32)
    heads = make_heads(rows, "bf16", isa)
    hidden = heads.rows[:3].copy()
    hidden[1] = bad
    assert heads.candidates(hidden, 2)
    counted = heads.counted()
    assert counted["screen"] == (1, 2 * 500 * 40, 0)
    assert counted["refine"][1] + counted["refine"][2] == 2 * 500 * 40
    assert 500 * 40 < counted["rescore"][1] < 600 * 40
    assert counted["logits_projection"][0] == 0


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=str)
def test_a_head_that_is_not_finite_is_rescored_whole(isa: str, bad: float) -> None:
    g = np.random.default_rng(8)
    heads = make_heads(head_rows(g, 500, 40), "f32", isa, spoiled=bad)
    assert heads.candidates(g.standard_normal((3, 40), np.float32), 5)
    assert heads.counted()["rescore"] == (1, 3 * 500 * 40, 0)


def test_of_equal_rows_the_lowest_id_wins() -> None:
    heads = make_heads(np.ones((640, 32), np.float32), "f16", ISAS[0])
    assert heads.candidates(np.ones((2, 32), np.float32), 3)
    assert heads.counted()["rescore"] == (1, 2 * 640 * 32, 0)


def test_a_request_for_much_of_the_vocabulary_reads_the_full_head() -> None:
    heads = make_heads(np.ones((640, 32), np.float32), "f16", ISAS[0])
    assert heads.candidates(np.ones((2, 32), np.float32), 81)
    assert heads.counted()["screen"][0] == 0
    assert heads.counted()["logits_projection"][0] == 1


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_a_plane_states_what_it_leaves_out(layout: str) -> None:
    """Residuals and norm are upper bounds, and not far above."""
    g = np.random.default_rng(9)
    cols = 256 if layout in ("q8_0", "q6_k") else 37
    values = head_rows(g, 203, cols)
    values[8] = 3e-41 if layout == "f32" else 0
    data = LAYOUTS[layout].pack(values)
    rows = LAYOUTS[layout].unpack(data, values.shape).astype(np.float64)
    p = screening.parts(_native.pack_plane(data, layout, 203, cols, 2), 203, cols)
    assert (p.fine_scale == p.scale / 16).all()
    coarse = p.scale[:, None].astype(np.float64) * p.high
    fine = coarse + p.fine_scale[:, None].astype(np.float64) * p.low
    lengths = [np.sqrt((x**2).sum(axis=1)) for x in (rows, coarse, fine)]
    for approximation, stated in ((coarse, p.coarse_residual), (fine, p.residual)):
        rest = np.sqrt(((rows - approximation) ** 2).sum(axis=1))
        assert (stated >= rest).all()
        assert (stated <= rest * (1 + 1e-5) + 1e-44).all()
    assert (p.norm >= np.maximum.reduce(lengths)).all()
    assert (p.norm <= np.maximum.reduce(lengths) * (1 + 1e-5) + 1e-44).all()
    assert p.greatest_norm == p.norm.max()


def test_a_plane_s_halves_leave_little_of_normal_rows() -> None:
    """Optimal codes of 4 bits leave 0.1075 of a normal row (Max 1960: distortion 0.01154)."""
    values = np.random.default_rng(11).standard_normal((64, 2560), np.float32)
    p = screening.parts(_native.pack_plane(LAYOUTS["f32"].pack(values), "f32", 64, 2560, 1), 64, 2560)
    lengths = np.linalg.norm(values, axis=1)
    assert 0.1 < (p.coarse_residual / lengths).mean() < 0.115
    assert (p.residual / lengths).mean() < 0.035


@pytest.mark.parametrize("n_together", [1, 40])
def test_the_bounds_hold_for_the_canonical_logits(n_together: int) -> None:
    """Those of one hidden state at a time, and those of several that share the plane."""
    from tritium import numerics

    g = np.random.default_rng(10)
    values = head_rows(g, 300, 65)
    plane = _native.pack_plane(LAYOUTS["f32"].pack(values), "f32", 300, 65, 1)
    hidden = np.concatenate([hidden_states(g, values, 40, kind) for kind in range(6)])
    parts = [screening.bounds(hidden[i : i + n_together], plane, 300) for i in range(0, len(hidden), n_together)]
    _, upper, refined = (np.concatenate(x) for x in zip(*parts, strict=True))
    logits = numerics.project_logits(hidden, values)
    assert np.isfinite(upper).all()
    assert (logits <= upper).all()
    assert (logits <= refined).all()
    assert (refined - logits).mean() < (upper - logits).mean() / 4


@pytest.mark.parametrize("isa", ISAS)
def test_several_together_are_bounded_by_high_halves_unless_those_leave_much(isa: str) -> None:
    """The candidates stay, few more rows are left; of two candidates, or where one feature outweighs the others, not one more."""
    g = np.random.default_rng(13)
    rows = g.standard_normal((4099, 256), np.float32)
    hidden = (rows[:8] * np.float32(0.5) + g.standard_normal((8, 256), np.float32)).astype(np.float32)
    spiked = hidden.copy()
    spiked[:, 7] = 100
    left = {}
    for (name, states), top_k in product((("normal", hidden), ("spiked", spiked)), (1, 2)):
        for n_together in (1, 8):
            heads = make_heads(rows, "f16", isa)
            for i in range(0, 8, n_together):
                assert heads.candidates(states[i : i + n_together], top_k)
            left[name, top_k, n_together] = heads.counted()["refine"][1] // 256
    assert left["normal", 1, 1] < left["normal", 1, 8] < 3 * left["normal", 1, 1]
    for name, top_k in (("normal", 2), ("spiked", 1), ("spiked", 2)):
        assert left[name, top_k, 1] == left[name, top_k, 8]


def test_packing_refuses_what_it_cannot_pack() -> None:
    data = np.zeros(64, np.uint8)
    for layout, rows, cols in (
        ("q4_0", 1, 32),
        ("q8_0", 1, 33),
        ("q6_k", 1, 128),
        ("f16", 2, 17),
        ("f32", 0, 16),
        ("f16", 1, (1 << 16) + 1),
    ):
        with pytest.raises(ValueError, match=r"layout|bytes|range"):
            _native.pack_plane(data, layout, rows, cols, 1)
