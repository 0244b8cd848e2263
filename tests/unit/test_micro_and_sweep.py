"""Micro-benchmarks and sweeps: the fit that decides what a throughput is, baselines, columns, and that they run here."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tritium.bench import micro, micro_baseline
from tritium.bench.host import fingerprint
from tritium.bench.micro import Operation, Point, Series, fit
from tritium.bench.sweep import Lanes, Row, Task, about, measure, records, render, tasks
from tritium.cli.benchmark import command
from tritium.engine.kv import blocks_for
from tritium.engine.model import load
from tritium.errors import FormatError, ShapeError
from tritium.gates.growth import growing_share


def test_a_line_is_found_over_orders_of_magnitude() -> None:
    sizes = [10, 100, 1000, 100_000]
    line = fit(sizes, [500 + 3 * n for n in sizes])
    assert (line.a, line.b) == (pytest.approx(500), pytest.approx(3))
    assert (fit(sizes, [7.0] * 4).b, fit(sizes, [7.0] * 4).a) == (pytest.approx(0), pytest.approx(7))
    falling = fit([1, 2, 4], [8.0, 4.0, 2.0])
    assert falling.b == 0
    assert falling.a > 0
    steep = fit([1, 2, 4], [1.0, 4.0, 16.0])
    assert steep.a == 0


def clock(times: dict[int, float]) -> Operation:
    return Operation("op", "element", tuple(times), ("made up",), lambda n: n, lambda _, n: lambda: times[n])


def test_a_throughput_is_told_only_where_time_grows_with_size() -> None:
    flat = micro.measure(clock({4096: 1000.0, 8192: 1001.0, 65536: 1003.0}), n_rounds=2)[0]
    assert [point.giga_per_s for point in flat.points] == [None, None, None]
    grown = micro.measure(clock({4096: 1000.0 + 409.6, 16384: 1000 + 1638.4, 65536: 1000 + 6553.6}), n_rounds=2)[0]
    assert [point.is_real for point in grown.points] == [False, True, True]
    assert grown.points[2].giga_per_s == pytest.approx(65536 / 7553.6)
    row = micro.as_receipt_row(grown)
    assert growing_share(row["sizes"], row["ns"]) >= 0.5 > growing_share(*list(micro.as_receipt_row(flat).values())[1:])


def test_the_least_sample_is_the_figure() -> None:
    samples = iter([9.0, 5.0, 7.0, 6.0])
    operation = Operation("op", "element", (8,), ("v",), lambda n: n, lambda _, n: lambda: next(samples))
    point = micro.measure(operation, n_rounds=3)[0].points[0]
    assert (point.ns, point.median_ns, point.high_ns) == (5.0, 6.0, 7.0)  # the first call warms up


WHERE = {"cpu": "a", "n_cpus": "2", "isa": "avx2", "threads": "1", "compiler": "gcc", "commit": "c"}


def series(ns: float, median: float | None = None) -> list[Series]:
    return [Series("op", "v", "element", (Point(8, 8, ns, median or ns, 2 * ns, True),), 0.0, 1.0)]


def test_a_baseline_comes_back_and_is_compared_row_by_row() -> None:
    kept = micro_baseline.parse(micro_baseline.render(series(100.0, 110.0), WHERE), "here")
    assert kept.rows == {("op", "v", 8): (100.0, 110.0, 200.0)}
    words = {ns: micro_baseline.compare(series(ns), WHERE, kept).word for ns in (100.0, 105.0, 106.0, 111.0, 90.0)}
    assert words == {100.0: "PASS", 105.0: "PASS", 106.0: "INCONCLUSIVE", 111.0: "FAIL", 90.0: "ATTENTION"}
    elsewhere = micro_baseline.compare(series(100.0), {**WHERE, "cpu": "b"}, kept)
    assert elsewhere.word == "INCONCLUSIVE"
    assert "cpu a, here b" in elsewhere.reasons[0]
    later = micro_baseline.compare(series(100.0), {**WHERE, "commit": "d", "compiler": "clang"}, kept)
    assert later.word == "PASS"
    other = [Series("op", "w", "element", series(1.0)[0].points, 0.0, 1.0)]
    assert micro_baseline.compare(other, WHERE, kept).word == "INCONCLUSIVE"


@pytest.mark.parametrize(
    "row", ["op\tv\t8\t1\t2", "op\tv\tx\t1\t2\t3\t-\tG", "op\tv\t8\t3\t2\t1\t-\tG", "op\tv\t8\tnan\t2\t3\t-\tG", ""]
)
def test_what_is_no_baseline_is_refused(row: str) -> None:
    with pytest.raises(FormatError, match="baseline: here"):
        micro_baseline.parse(f"{micro_baseline.HEAD}\n{row}\n", "here")


def test_every_kernel_of_the_suites_runs_here() -> None:
    for operation in (*micro.kernels(1), *micro.quantization(2)):
        assert operation.variants[0] in (*micro.isas(), micro.REFERENCE, "native")
        for variant in operation.variants:
            if variant != micro.REFERENCE:
                assert operation.make(variant, operation.sizes[0])() > 0


def test_the_shipped_baseline_can_be_read() -> None:
    path = Path(__file__).resolve().parents[2] / "ci" / "bench_quantization_baseline.txt"
    kept = micro_baseline.parse(path.read_text(encoding="utf-8"), str(path))
    assert {"cpu", "isa", "threads", "commit"} <= set(kept.conditions)
    assert {size for _, _, size in kept.rows} == set(micro.QUANTIZE_SIZES)


def test_quantize_writes_compares_and_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {8: 100.0}
    monkeypatch.setattr(micro, "quantization", lambda n_threads: [clock(made)])
    path = str(tmp_path / "baseline.txt")
    run = CliRunner()
    assert run.invoke(command, ["quantize", "--baseline", path, "--check"]).exit_code == 8
    assert run.invoke(command, ["quantize", "--baseline", path, "--write-baseline"]).exit_code == 0
    same = run.invoke(command, ["quantize", "--baseline", path, "--check", "--json"])
    assert (same.exit_code, json.loads(same.stdout)["baseline"]["verdict"]) == (0, "PASS")
    made[8] = 130.0
    worse = run.invoke(command, ["quantize", "--baseline", path, "--check"])
    assert worse.exit_code == 6
    assert "FAIL: op made up 8: 76.9 % of the baseline's speed" in worse.stdout
    assert run.invoke(command, ["quantize", "--baseline", path]).exit_code == 0


def test_tests_are_every_combination() -> None:
    made = tasks([16, 0], [8], [(4, 2), (0, 0)], [0, 32], [1, 4])
    assert [task.name for task in made[:4]] == ["pp16", "tg8", "pp4+tg2", "pp16 × 4"]
    assert len(made) == 12
    assert made[-1] == Task(4, 2, 32, 4)
    assert (made[-1].n_tokens, made[-1].n_positions) == (24, 38)
    assert tasks([0], [0], [], [0], [1]) == []


def test_sequences_side_by_side_forward_what_single_ones_do() -> None:
    with load("demo", threads=1, max_context=256, prefix_cache=False) as model:
        executor = model.engine.executor
        executor.reset_trace()
        lanes = Lanes(executor, 3, 40)
        lanes.prompt(20)
        lanes.generate(4)
        trace = executor.trace()
        assert trace.n_tokens == 3 * 24
        assert trace.n_steps == 1 + 4
        rows = measure(model, [Task(8, 0, 8), Task(0, 3, 0, 2)], repetitions=3)
        assert [len(row.samples_ns) for row in rows] == [3, 3]
        with pytest.raises(ShapeError, match="tokens of a task: pp300"):
            measure(model, [Task(300, 0)], repetitions=1)
        with pytest.raises(ShapeError, match="sequences at once"):
            Lanes(executor, executor.kv_blocks // blocks_for(256) + 1, 256)
        of = about(model, "demo", "i2s")
    assert of.n_params > 3e6
    made = list(records([Row(Task(8, 0), 1, (1_000_000, 3_000_000), "2026-01-02T03:04:05Z")], of, fingerprint()))
    assert made[0]["avg_ts"] == pytest.approx((8000 + 8000 / 3) / 2)
    assert made[0]["avg_ns"] == 2_000_000
    table = render(made, "md").splitlines()
    assert [cell.strip() for cell in table[0].strip("|").split("|")] == [
        "model", "size", "params", "backend", "threads", "test", "t/s",
    ]  # fmt: skip
    assert "5333.33 ± 3771.24" in table[2]
    read = list(csv.DictReader(io.StringIO(render(made, "csv"))))
    assert (read[0]["n_prompt"], read[0]["test"]) == ("8", "pp8")
    assert json.loads(render(made, "json")) == [json.loads(render(made, "jsonl"))] == made
    with pytest.raises(ShapeError, match="format"):
        render(made, "sql")


def test_a_sweep_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    run = CliRunner()
    size = ["-p", "16,8", "-n", "4", "-pg", "8,4", "-d", "0,16", "-b", "1,2", "-t", "1", "-r", "1"]
    done = run.invoke(command, ["sweep", "-m", "demo", *size, "-o", "json", "--output-file", str(path)])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document == json.loads(path.read_text(encoding="utf-8"))
    assert len(document) == 16
    assert {row["test"] for row in document} >= {"pp16", "tg4 @ d16 × 2", "pp8+tg4"}
    for wrong in (["-p", "x"], ["-p", "0", "-n", "0"], ["-pg", "8"], ["-t", "0"], ["-b", "1,0"], ["-o", "sql"]):
        assert run.invoke(command, ["sweep", *wrong]).exit_code == 2
