"""Times of products: measured once, kept, and measured again when the file does not hold what it should."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tiny_models import write_tiny
from tritium.backends import cpu, kernel_choice
from tritium.backends.tuning import FOLDER, Tuner, middle_turn
from tritium.engine.model import load

IDENTITY: dict[str, str | int] = {"cpu": "one", "threads": 2}


class Clock:
    """Counts what it is asked."""

    def __init__(self, ns: float = 10.0) -> None:
        self.n_calls, self.ns = 0, ns

    def __call__(self, n: int, k: int, layouts: tuple[str, ...]) -> dict[str, float]:
        self.n_calls += 1
        return {layout: self.ns + i for i, layout in enumerate(layouts)}


def test_a_shape_is_timed_once(tmp_path: Path) -> None:
    clock = Clock()
    for _ in range(2):
        tuner = Tuner(tmp_path / "new", IDENTITY, clock)
        assert tuner.times(32, 16, ("i2s", "tq1")) == {"i2s": 10.0, "tq1": 11.0}
        assert tuner.times(32, 16, ("tq1",)) == {"tq1": 11.0}
    assert clock.n_calls == 1
    assert tuner.times(48, 16, ("i2s",)) == {"i2s": 10.0}
    assert tuner.times(48, 16, ("i2s", "tq1")) == {"i2s": 10.0, "tq1": 11.0}, "another layout: all again"
    assert set(Tuner(tmp_path / "new", IDENTITY, clock).known) == {"32x16", "48x16"}
    assert clock.n_calls == 3
    assert len(list((tmp_path / "new").iterdir())) == 1


@pytest.mark.parametrize("name", ["cpu", "threads", "version"])
def test_times_of_something_else_are_not_taken(tmp_path: Path, name: str) -> None:
    first, second = Clock(), Clock(20.0)
    old = Tuner(tmp_path, IDENTITY, first)
    old.times(32, 16, ("i2s",))
    new = Tuner(tmp_path, {**IDENTITY, name: 3}, second)
    assert new.times(32, 16, ("i2s",)) == {"i2s": 20.0}
    # Not even under its name.
    old.path.replace(new.path)
    assert not Tuner(tmp_path, new.identity, second).known


BROKEN: dict[str, Callable[[dict[str, object]], object]] = {
    "a list": lambda d: [d],
    "no times": lambda d: {"identity": d["identity"]},
    "times of no shape": lambda d: {**d, "ns": [1]},
    "a shape without layouts": lambda d: {**d, "ns": {"32x16": 5}},
    "a negative time": lambda d: {**d, "ns": {"32x16": {"i2s": -1.0}}},
    "no time at all": lambda d: {**d, "ns": {"32x16": {"i2s": 0}}},
    "a time that is true": lambda d: {**d, "ns": {"32x16": {"i2s": True}}},
    "a time in words": lambda d: {**d, "ns": {"32x16": {"i2s": "10"}}},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_not_as_it_should_be_is_made_again(tmp_path: Path, name: str) -> None:
    clock = Clock()
    tuner = Tuner(tmp_path, IDENTITY, clock)
    tuner.times(32, 16, ("i2s",))
    whole = tuner.path.read_text()
    tuner.path.write_text(json.dumps(BROKEN[name](json.loads(whole))))
    assert Tuner(tmp_path, IDENTITY, clock).times(32, 16, ("i2s",)) == {"i2s": 10.0}
    assert clock.n_calls == 2
    assert tuner.path.read_text() == whole


@pytest.mark.parametrize("text", ["", "{", "\x00\xff", '{"identity": NaN}', "[" * 100_000])
def test_bytes_that_are_no_json_are_made_again(tmp_path: Path, text: str) -> None:
    clock = Clock()
    tuner = Tuner(tmp_path, IDENTITY, clock)
    tmp_path.mkdir(exist_ok=True)
    tuner.path.write_bytes(text.encode("latin-1"))
    assert Tuner(tmp_path, IDENTITY, clock).times(32, 16, ("i2s",)) == {"i2s": 10.0}
    assert json.loads(tuner.path.read_text())["ns"] == {"32x16": {"i2s": 10.0}}


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    clock = Clock()
    tuner = Tuner(tmp_path / "file", IDENTITY, clock)
    assert tuner.times(32, 16, ("i2s",)) == tuner.times(32, 16, ("i2s",)) == {"i2s": 10.0}
    assert clock.n_calls == 1


def test_products_are_timed_with_the_kernels_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "COLD_BYTES", 1 << 16)
    for n, k in ((100, 250), (1, 1), (4096, 1040)):  # the last does not fit those bytes
        times = cpu.time_layouts(n, k, ("i2s", "tq1"), 2)
        assert set(times) == {"i2s", "tq1"}
        assert all(math.isfinite(ns) and ns > 0 for ns in times.values())


def test_what_was_timed_decides_and_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", "relu2_mha_tied")
    monkeypatch.setenv("TRITIUM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kernel_choice, "LARGE_WEIGHTS", 0)
    monkeypatch.setattr(cpu, "COLD_BYTES", 1 << 16)
    if len({isa for isa in cpu.isas() if isa != "scalar"}) == 0:
        pytest.skip("only scalar kernels run here: nothing is timed")
    found = {}
    with load(path, threads=1, ffn_sparsity="off") as model:
        found["measured"] = model.logits([1, 7, 3])
    (file,) = (tmp_path / "cache" / FOLDER).iterdir()
    document = json.loads(file.read_text())
    shapes = [tuple(map(int, name.split("x"))) for name in document["ns"]]
    assert len(shapes) >= 3
    for quicker, other in (("i2s", "tq1"), ("tq1", "i2s")):
        document["ns"] = {f"{n}x{k}": {quicker: 1.0, other: 2.0} for n, k in shapes}
        file.write_text(json.dumps(document))
        with load(path, threads=1, ffn_sparsity="off") as model:
            assert {r.layout for r in model.plan.residents if r.layout in kernel_choice.PANELS} == {quicker}
            found[quicker] = model.logits([1, 7, 3])
    assert len({logits.tobytes() for logits in found.values()}) == 1


def test_times_are_of_the_turn_in_the_middle() -> None:
    """Neither a layout's luck nor that of all layouts together decides."""
    turns = [{"i2s": 100.0, "tq1": 80.0}, {"i2s": 55.0, "tq1": 82.0}, {"i2s": 205.0, "tq1": 160.0}]
    assert middle_turn(turns) == turns[0]
    assert middle_turn(turns[::-1]) == turns[0]
