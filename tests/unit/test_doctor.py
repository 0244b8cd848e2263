"""The doctor: each thing that hurts is found, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tritium import cli
from tritium.bench.machine import Machine
from tritium.cli.doctor import Native, problems, writable

MACHINE = Machine(
    os="linux",
    kernel="6.1",
    architecture="x86_64",
    python="3.11.0",
    cpu="A CPU",
    virtual=False,
    n_cpus=4,
    n_cores=2,
    cpu_quota=None,
    caches=(),
    memory_bytes=16 << 30,
    memory_available_bytes=8 << 30,
    huge_pages="madvise",
    governor="performance",
)
NATIVE = Native(
    compiler="gcc 12",
    flags="-O2",
    n_threads=4,
    status={"avx512vnni": "cpu lacks it", "avx2": "ok", "scalar": "ok"},
    in_use=("avx2", "scalar"),
    forced=None,
)


def with_status(status: str) -> Native:
    return replace(NATIVE, status={**NATIVE.status, "avx512vnni": status})


def found(machine: Machine = MACHINE, native: Native = NATIVE, cache: Path = Path("/tmp")) -> list[str]:
    return [problem.what for problem in problems(machine, native, cache)]


def test_a_healthy_machine_has_no_problem(tmp_path: Path) -> None:
    assert found(cache=tmp_path) == []
    assert found(replace(MACHINE, cpu_quota=4.0, governor=None, huge_pages=None, memory_available_bytes=None)) == []


@pytest.mark.parametrize(
    ("machine", "native", "what"),
    [
        (replace(MACHINE, memory_available_bytes=500_000_000), NATIVE, "0.5 GB of memory are available"),
        (replace(MACHINE, cpu_quota=1.5), NATIVE, "4 threads share a quota of 1.5 CPUs"),
        (replace(MACHINE, n_cpus=2), NATIVE, "4 threads on 2 CPUs"),
        (replace(MACHINE, governor="powersave"), NATIVE, "the CPU governor is powersave"),
        (replace(MACHINE, huge_pages="never"), NATIVE, "transparent huge pages are off"),
        (MACHINE, replace(NATIVE, in_use=("scalar",), forced="scalar"), "TRITIUM_ISA keeps avx2 from being used"),
        (MACHINE, with_status("self-test failed"), "avx512vnni: self-test failed"),
        (MACHINE, with_status("illegal instruction"), "avx512vnni: illegal instruction"),
    ],
)
def test_each_problem_is_found_alone(machine: Machine, native: Native, what: str) -> None:
    assert found(machine, native) == [what]


def test_writable(tmp_path: Path) -> None:
    assert writable(tmp_path)
    assert writable(tmp_path / "not" / "yet")
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert not writable(tmp_path / "file" / "below")
    assert found(cache=tmp_path / "file") == [f"{tmp_path / 'file'} is not writable"]


def test_both_outputs_tell_the_same(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritium.cli.doctor.PROBE_BYTES", 1 << 20)
    monkeypatch.setenv("TRITIUM_THREADS", "2")
    monkeypatch.setenv("TRITIUM_ISA", "scalar")
    assert cli.invoke(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["native"]["in_use"] == ["scalar"]
    assert document["native"]["status"]["scalar"] == "ok"
    assert list(document["read_bandwidth_gb_per_s"]) == ["1", "2"]
    assert all(speed > 0 for speed in document["read_bandwidth_gb_per_s"].values())
    assert cli.invoke(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "scalar, forced by TRITIUM_ISA" in text
    for problem in document["problems"]:
        assert problem["fix"] in text


def test_an_unknown_instruction_set_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITIUM_ISA", "sse9")
    assert cli.invoke(["doctor"]) == 4
    assert "TRITIUM_ISA: expected" in capsys.readouterr().err
