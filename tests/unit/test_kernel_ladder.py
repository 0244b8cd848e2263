"""The kernel ladder counts what it runs, and notices a kernel that has lost its speed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.lab import __main__ as lab
from benchmarks.lab.bench import Bench, Pass, Point
from benchmarks.lab.ladder import LEAST_PERCENT, POINTS, REFERENCE, Row, climb, is_zen4, least_percent, lost

from tritium import _native

TINY = Point("linear", 3, 100, 50)


@pytest.mark.parametrize("op", ["linear", "rmsnorm_quantize", "relu2_mul", "silu_mul"])
@pytest.mark.parametrize("isa", _native.isas())
def test_a_bench_runs_every_op_on_every_instruction_set(op: str, isa: str) -> None:
    point = replace(TINY, op=op, n=50 if op == "linear" else 0)
    done = Bench(point, isa, 1).run()
    assert done.ns > 0
    assert done.macs == (3 * 100 * 50 if op == "linear" else 0)


@pytest.mark.parametrize("t", [1, 70])
@pytest.mark.parametrize("isa", _native.isas())
def test_a_bench_of_a_sparse_linear_spares_what_is_not_needed(isa: str, t: int) -> None:
    every = t * 256 * 512
    for point in (Point("linear", t, 256, 512, weights="i2_s"), Point("linear", t, 512, 256, weights="i2s_columns")):
        assert Bench(replace(point, needed=0.0), isa, 1).run().macs == 0
        assert 0.1 * every < Bench(replace(point, needed=0.2), isa, 1).run().macs < 0.3 * every
        assert Bench(replace(point, needed=1.0), isa, 1).run().macs > 0.9 * every


def test_a_ladder_begins_with_the_definition() -> None:
    isas = tuple(reversed(_native.isas()))
    rows = list(climb(TINY, isas, 1, 0.01))
    assert [row.rung for row in rows] == [REFERENCE, *isas]
    assert all(row.gmac_per_s > 0 for row in rows)
    assert rows[0].limit_percent is None
    assert all(row.limit_percent is not None and row.limit_percent > 0 for row in rows[1:])


@pytest.mark.parametrize("key", LEAST_PERCENT)
def test_a_kernel_below_its_share_is_named(key: tuple[str, str, int]) -> None:
    (isa, weights, t), least = key, LEAST_PERCENT[key]
    point = next(p for p in POINTS if p.op == "linear" and (p.weights, p.t) == (weights, t))
    slow, right = (Row(point, isa, Pass(1, 1, 1), percent) for percent in (least - 0.1, least))
    assert [line.startswith(f"{isa}: linear") for line in lost([slow, right], isa)] == [True]
    assert not list(lost([slow], "scalar"))
    assert not list(lost([replace(slow, point=replace(point, t=5))], isa))


@pytest.mark.parametrize(("slow_climbs", "n_failures"), [(0, 0), (1, 0), (lab.ROUNDS - 1, 0), (lab.ROUNDS, 1)])
def test_a_point_below_its_share_takes_its_turn_again(
    monkeypatch: pytest.MonkeyPatch, slow_climbs: int, n_failures: int
) -> None:
    first = next(p for p in POINTS if (p.op, p.weights, p.t) == ("linear", "i2s", 32))
    climbed: list[Point] = []

    def climb_slowly(point: Point, isas: list[str], _n_threads: int, _budget_s: float) -> list[Row]:
        climbed.append(point)
        percent = 1.0 if point == first and climbed.count(first) <= slow_climbs else 200.0
        return [Row(point, isas[0], Pass(1, 1, 1), percent)]

    monkeypatch.setattr(lab, "climb", climb_slowly)
    assert len(lab.check(["avx2"])) == n_failures
    assert climbed.count(first) == min(slow_climbs + 1, lab.ROUNDS)
    known = {p for p in POINTS if least_percent(p, "avx2") is not None}
    assert all(climbed.count(p) == 1 for p in known - {first})
    assert set(climbed) == known


@pytest.mark.parametrize(
    ("vendor", "family", "flags", "expected"),
    [
        ("AuthenticAMD", 25, "avx2 avx512_vnni avx512_vbmi2", True),
        ("AuthenticAMD", 25, "avx2", False),
        ("AuthenticAMD", 26, "avx2 avx512_vnni", False),
        ("GenuineIntel", 6, "avx2 avx512_vnni", False),
    ],
)
def test_only_the_processor_that_shares_were_measured_on_is_held_to_them(
    tmp_path: Path, vendor: str, family: int, flags: str, expected: bool
) -> None:
    assert not is_zen4(tmp_path)
    (tmp_path / "proc").mkdir()
    one = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 17\nflags\t\t: fpu {flags}\nbugs\t\t:\n\n"
    (tmp_path / "proc/cpuinfo").write_text(2 * one, encoding="utf-8")
    assert is_zen4(tmp_path) == expected


def test_other_processors_are_not_checked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(lab, "is_zen4", lambda: False)
    monkeypatch.setattr("sys.argv", ["lab", "--check"])
    assert lab.main() == 0
    assert capsys.readouterr().out.startswith("not checked")
