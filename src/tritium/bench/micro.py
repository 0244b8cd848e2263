"""Single operations by size: kernels of every instruction set beside the scalar ones and the NumPy reference.

A throughput is one only where the time is the work's: t = a + b·n is fitted, and n / t is told of a size only if b·n is at least
half of t. Below that the figure would be that of a call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritium import numerics
from tritium.backends import cpu
from tritium.bench.stats import interleave, summarize
from tritium.ir import Buffer, Choice, Operand, Plan, Resident, Step
from tritium.kernel_table import kernel_table
from tritium.layouts import LAYOUTS

MATMUL_SIZES = (32, 64, 128, 256, 512)
GEMV_SIZES = (32, 64, 128, 256, 512, 1024, 2048)
QUANTIZE_SIZES = (4096, 8192, 16384, 32768, 65536)
REFERENCE = "numpy"
REAL_SHARE = 0.5
SAMPLE_NS = 1_000_000
"""A sample repeats its operation until about so much time has passed."""

Timed = Callable[[], float]
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Point:
    """One size: ``work`` units, nanoseconds a call, and whether a throughput is real.

    ``ns`` is the least of the samples: what the work takes; the others are longer by what else the machine did.
    """

    size: int
    work: int
    ns: float
    median_ns: float
    high_ns: float
    is_real: bool

    @property
    def giga_per_s(self) -> float | None:
        """10⁹ units a second, None where the time is not the work's."""
        return self.work / self.ns if self.is_real else None


@dataclass(frozen=True, slots=True)
class Series:
    """An operation of one variant over its sizes, and the line t = a + b·work through them, in nanoseconds."""

    operation: str
    variant: str
    unit: str
    points: tuple[Point, ...]
    a_ns: float
    b_ns: float


@dataclass(frozen=True, slots=True)
class Line:
    """t = a + b·n, both at least 0."""

    a: float
    b: float

    def share(self, n: float, t: float) -> float:
        """How much of t at n is b·n."""
        return min(self.b * n / t, 1.0)


def fit(sizes: Sequence[float], times: Sequence[float]) -> Line:
    """The line whose relative errors have the least squares, of two sizes or more; sizes may span orders of magnitude."""
    u = np.array([1 / t for t in times])
    v = np.array([n / t for n, t in zip(sizes, times, strict=True)])
    uu, uv, vv, su, sv = float(u @ u), float(u @ v), float(v @ v), float(u.sum()), float(v.sum())
    determinant = uu * vv - uv * uv
    if determinant > 0:
        a, b = (su * vv - sv * uv) / determinant, (uu * sv - uv * su) / determinant
        if a >= 0 and b >= 0:
            return Line(a, b)
        if b < 0:
            return Line(su / uu, 0.0)
    return Line(0.0, sv / vv)


@dataclass(frozen=True, slots=True)
class Operation:
    """What is measured: variants by size. ``make(variant, size)`` prepares it and returns a call that tells its nanoseconds."""

    name: str
    unit: str
    sizes: tuple[int, ...]
    variants: tuple[str, ...]
    work: Callable[[int], int]
    make: Callable[[str, int], Timed]


def measure(operation: Operation, *, n_rounds: int) -> list[Series]:
    """Every variant at every size, the variants of a size by turns."""
    points: dict[str, list[tuple[int, list[float]]]] = {variant: [] for variant in operation.variants}
    for size in operation.sizes:
        calls = {variant: operation.make(variant, size) for variant in operation.variants}
        for call in calls.values():
            call()
        rounds = interleave(calls, n_rounds=n_rounds, least=n_rounds, budget_ns=0)
        for variant, samples in rounds.samples.items():
            points[variant].append((size, samples))
    return [_series(operation, variant, rows) for variant, rows in points.items()]


def _series(operation: Operation, variant: str, rows: Sequence[tuple[int, Sequence[float]]]) -> Series:
    spreads = [summarize(samples) for _, samples in rows]
    works = [operation.work(size) for size, _ in rows]
    line = fit(works, [s.low for s in spreads])
    points = tuple(
        Point(size, work, s.low, s.median, s.high, line.share(work, s.low) >= REAL_SHARE)
        for (size, _), work, s in zip(rows, works, spreads, strict=True)
    )
    return Series(operation.name, variant, operation.unit, points, line.a, line.b)


def _sampled(call: Callable[[], object]) -> Timed:
    """Repeat a Python call until its time can be told; nanoseconds of one."""

    def sample() -> float:
        n, start = 0, time.perf_counter_ns()
        while True:
            call()
            n += 1
            elapsed = time.perf_counter_ns() - start
            if elapsed >= SAMPLE_NS:
                return elapsed / n

    return sample


def _native(step: Callable[[], object], counted: Callable[[], tuple[int, int]]) -> Timed:
    """Repeat a native step; nanoseconds of the kernel alone, as the executor counts them."""

    def sample() -> float:
        calls, ns = counted()
        while True:
            step()
            now_calls, now_ns = counted()
            if now_ns - ns >= SAMPLE_NS or now_calls - calls >= 2000:
                return (now_ns - ns) / (now_calls - calls)

    return sample


def isas() -> tuple[str, ...]:
    """The instruction sets that run here, best first, the scalar one last."""
    return cpu.isas()


def kernels(n_threads: int) -> list[Operation]:
    """Ternary products: one token against a square matrix, and as many tokens as the matrix has rows."""
    variants = (*isas(), REFERENCE)

    def make(variant: str, size: int, t: int) -> Timed:
        g = np.random.default_rng(size)
        trits = g.integers(-1, 2, (size, size), np.int8)
        q = g.integers(-127, 128, (t, size), np.int8)
        scale, one = np.ones(t, np.float32), np.ones(1, np.float32)
        if variant == REFERENCE:
            return _sampled(lambda: numerics.ternary_linear(q, scale, trits, one))
        return _linear(variant, q, scale, trits, n_threads)

    return [
        Operation("gemv", "MAC", GEMV_SIZES, variants, lambda n: n * n, lambda v, n: make(v, n, 1)),
        Operation("matmul", "MAC", MATMUL_SIZES, variants, lambda n: n**3, lambda v, n: make(v, n, n)),
    ]


def quantization(n_threads: int) -> list[Operation]:
    """Activations to int8, weights to I2_S and back, and I2_S to the panels that kernels read."""
    return [
        Operation(
            "quantize_activations", "element", QUANTIZE_SIZES, (*isas(), REFERENCE), lambda n: n, _quantize(n_threads)
        ),
        Operation("i2s_quantize", "element", QUANTIZE_SIZES, (REFERENCE,), lambda n: n, _i2s),
        Operation("i2s_dequantize", "element", QUANTIZE_SIZES, (REFERENCE,), lambda n: n, _from_i2s),
        Operation("i2s_repack", "element", QUANTIZE_SIZES, ("native",), lambda n: n, _repack(n_threads)),
    ]


def _weights(size: int) -> NDArray[np.float32]:
    trits = np.random.default_rng(size).integers(-1, 2, (size // 256, 256), np.int8)
    return trits.astype(np.float32)


def _i2s(_variant: str, size: int) -> Timed:
    weights = _weights(size)
    return _sampled(lambda: LAYOUTS["i2_s"].pack(weights))


def _from_i2s(_variant: str, size: int) -> Timed:
    weights = _weights(size)
    data = LAYOUTS["i2_s"].pack(weights)
    shape = weights.shape
    return _sampled(lambda: LAYOUTS["i2_s"].unpack(data, shape))


def _repack(n_threads: int) -> Callable[[str, int], Timed]:
    def make(_variant: str, size: int) -> Timed:
        weights = _weights(size)
        data = LAYOUTS["i2_s"].pack(weights)
        rows, cols = weights.shape
        return _sampled(lambda: cpu.pack_i2s(data, rows, cols, 1.0, n_threads))

    return make


def _quantize(n_threads: int) -> Callable[[str, int], Timed]:
    def make(variant: str, size: int) -> Timed:
        x = np.random.default_rng(size).standard_normal((1, size), np.float32)
        if variant == REFERENCE:
            return _sampled(lambda: numerics.quantize_activations(x))
        arrays: Arrays = {"x": x, "q": np.zeros((1, size), np.int8), "scale": np.zeros((1, 1), np.float32)}
        return _step("quantize", "none", variant, arrays, 1, {"k": size, "act_bits": 8}, [], n_threads)

    return make


def _linear(
    isa: str, q: NDArray[np.int8], scale: NDArray[np.float32], trits: NDArray[np.int8], n_threads: int
) -> Timed:
    n, k = trits.shape
    arrays: Arrays = {"q": q, "scale": scale[:, None], "y": np.zeros((len(q), n), np.float32)}
    attrs = {"k": k, "n": n, "group": 0, "act_bits": 8, "accumulate": 0}
    weight = cpu.pack_trits(trits, 1.0, n_threads), Resident(("w",), "i2s", n, k, 0)
    return _step("linear", "i2s", isa, arrays, 2, attrs, [weight], n_threads)


def _step(
    op: str, layout: str, isa: str, arrays: Arrays, n_inputs: int, attrs: Mapping[str, float],
    weights: Sequence[tuple[NDArray[np.uint8], Resident]], n_threads: int,
) -> Timed:  # fmt: skip
    """A plan of one step: the first ``n_inputs`` arrays are read, the others written."""
    t = len(next(iter(arrays.values())))
    buffers: list[Buffer] = []
    at = 0
    for name, array in arrays.items():
        per_line = 64 // array.itemsize
        width = -(-array.shape[1] // per_line) * per_line
        dtype = {"f": "f32", "b": "i8"}[array.dtype.char]
        buffers.append(Buffer(name, dtype, "tokens", width, at))
        at += t * width * array.itemsize
    operands = tuple(Operand(i, 0) for i in range(len(buffers)))
    rows = sorted((r for r in kernel_table() if (r.op, r.layout, r.isa) == (op, layout, isa)), key=lambda r: r.t_min)
    residents = tuple(Resident(r.tensors, r.layout, r.rows, r.cols, data.size) for data, r in weights)
    used = tuple(range(len(residents)))
    choices = tuple(Choice(row.id, row.t_min, row.t_max, used) for row in rows)
    step = Step(op, op, 0, operands[:n_inputs], operands[n_inputs:], attrs, choices)
    plan = Plan(
        architecture="", backend="cpu", profile="", graph_hash="", max_tokens=t, max_outputs=1, max_context=1, vocab_size=16,
        n_kv_layers=0, n_kv_heads=0, head_dim=0, kv_block=0, arena_bytes=at, rope_theta=0.0, rope_factors=(),
        buffers=tuple(buffers), residents=residents, steps=(step,),
    )  # fmt: skip
    program = cpu.kernel_program(plan, [data for data, _ in weights], n_threads)
    for i, array in enumerate(list(arrays.values())[:n_inputs]):
        program.buffer(i)[:, : array.shape[1]] = array
    zeros, table, none = np.zeros(t, np.int32), np.zeros((1, 1), np.int32), np.zeros(0, np.int32)

    def counted() -> tuple[int, int]:
        rows = program.counters()
        return int(rows[:, 2].sum()), int(rows[:, 6].sum())

    request = cpu.Request(zeros, zeros, zeros, table, none, 0)
    return _native(lambda: program.step(request), counted)


def as_json(series: Series) -> dict[str, Any]:
    """A series by name, with its throughputs."""
    points = [{**asdict(point), "giga_per_s": point.giga_per_s} for point in series.points]
    return {**asdict(series), "points": points}


def as_receipt_row(series: Series) -> dict[str, Any]:
    """The form in which receipts carry it: work and nanoseconds of each size."""
    return {
        "operation": f"{series.operation}_{series.variant}",
        "sizes": [point.work for point in series.points],
        "ns": [round(point.ns) for point in series.points],
    }


def lines(every: Sequence[Series]) -> Iterator[str]:
    """A table of each operation: a row a size, a column a variant; then the lines fitted and what each gains over the scalar."""
    for name in dict.fromkeys(series.operation for series in every):
        mine = [series for series in every if series.operation == name]
        unit = mine[0].unit
        yield f"{name}: µs · G{unit}/s"
        yield f"{'size':>8}" + "".join(f"{series.variant:>22}" for series in mine)
        for i, point in enumerate(mine[0].points):
            yield f"{point.size:>8}" + "".join(f"{_cell(series.points[i]):>22}" for series in mine)
        for series in mine:
            yield f"  {series.variant}: t = {series.a_ns:.4g} ns + {series.b_ns:.4g} ns · n{_gain(series, mine)}"
        yield ""
    yield "– no throughput: less than half of the time grows with the size"


def _cell(point: Point) -> str:
    rate = "–" if point.giga_per_s is None else f"{point.giga_per_s:.3g}"
    return f"{point.ns / 1e3:.4g} · {rate}"


def _gain(series: Series, every: Sequence[Series]) -> str:
    plain = next((other for other in every if other.variant == "scalar"), None)
    if plain is None or plain is series:
        return ""
    size = plain.points[-1].size
    return f"; at {size} {plain.points[-1].ns / series.points[-1].ns:.3g}× the scalar kernel's speed"
