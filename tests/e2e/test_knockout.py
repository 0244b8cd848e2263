"""Every kernel of a run is missed when it does nothing, and no receipt comes of such a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

import pytest

from command_line import tritium
from tritium.bench.machine import read_machine
from tritium.engine.model import Model, load
from tritium.engine.sampling import SamplingParams
from tritium.errors import NumericsError, UnsupportedError
from tritium.evidence.knockout import knock_out
from tritium.evidence.record import build_receipt
from tritium.evidence.recorder import recorder

PROMPT = [10, 20, 30, 40]


@pytest.fixture
def model() -> Iterator[Model]:
    with load("demo", prefix_cache=False, max_context=64) as opened:
        yield opened


def test_each_kernel_is_missed(model: Model) -> None:
    whole, rows = knock_out(model, PROMPT, 6)
    assert whole.failure is None
    assert [row.kernel for row in rows] == [kernel for kernel, _ in whole.macs]
    assert len(rows) >= 10
    assert all("root" in row.changed for row in rows)
    assert model.engine.executor.knocked_out is None


def test_a_kernel_that_only_spares_work_is_missed_by_it() -> None:
    with load("demo", prefix_cache=False, max_context=64, head_screen="on") as model:
        _, rows = knock_out(model, model.tokenize("The capital of France is"), 16)
    assert all(row.changed for row in rows)
    assert [row.kernel.split("_")[0] for row in rows if row.changed == ("work",)] == ["threshold", "refine"]


def test_no_receipt_comes_of_it(model: Model) -> None:
    executor = model.engine.executor
    executor.knock_out("relu2_mul_" + model.plan.steps[1].choices[0].kernel.rpartition("_")[2])
    watch = recorder(model)
    params = SamplingParams(max_tokens=3)
    with model.stream(PROMPT, params, observer=watch) as stream:
        for _ in stream:
            pass
    with pytest.raises(NumericsError, match="no receipt: the run: expected all kernels"):
        build_receipt(model, stream.result, watch, params, machine=asdict(read_machine()), probe=None)


def test_what_cannot_be_knocked_out(model: Model) -> None:
    with pytest.raises(UnsupportedError, match="no such kernel"):
        model.engine.executor.knock_out("i2s_gemw")
    with load("demo", backend="reference") as reference, pytest.raises(UnsupportedError, match="back end reference"):
        reference.engine.executor.knock_out("linear_reference")


def test_a_kernel_that_nobody_misses_is_told(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(model.engine.executor), "knock_out", lambda self, kernel: None)
    _, rows = knock_out(model, PROMPT, 2)
    assert all(row.changed == () for row in rows)


def test_from_the_command_line() -> None:
    shown = tritium("benchmark", "-m", "demo", "--knockout", "--tokens", "4", "--json")
    assert shown.returncode == 0, shown.stderr
    document = json.loads(shown.stdout)
    assert document["missed_by_nothing"] == []
    assert all(row["outcome"]["root"] != document["whole"]["root"] for row in document["kernels"])
    assert tritium("benchmark", "--knockout", "--temperature", "1").returncode == 2
    assert tritium("benchmark", "--knockout", "--backend", "reference", "--tokens", "2").returncode == 4
