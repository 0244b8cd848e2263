"""tritium-driver as it was built for this machine: the same bits without Python, and no bundle that makes it fall over."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from driver_runs import LENGTHS, Command, Recorder, drive, dump, instruction_sets, native_driver
from forwarding import forward, sha256, token_sequences
from tiny_models import write_tiny
from tritium.backends.cpu import CpuBackend, isa_status
from tritium.bundle import BundleWriter, read_results
from tritium.errors import FormatError
from tritium.formats.gguf import open_gguf
from tritium.ir import Plan
from tritium.models import build_graph
from tritium.plan import make_plan

MODEL = "relu2_gqa_tied_chat"
GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())[MODEL]["logits"]


@pytest.fixture(scope="module")
def driver() -> Command:
    return native_driver()


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    """A plan for scalar code, and its bundle."""
    folder = tmp_path_factory.mktemp("driver")
    with open_gguf(write_tiny(folder / "model.gguf", MODEL)) as file:
        graph = build_graph(file)
        plan = make_plan(graph, CpuBackend(("scalar",)), max_tokens=300, max_outputs=300)
        recorder = Recorder(plan)
        forward(recorder, token_sequences(plan.vocab_size, LENGTHS), None)  # type: ignore[arg-type]
        return plan, dump(plan, file, recorder.batches, folder / "model.bundle")


def refused(driver: Command, *arguments: str | Path) -> str:
    """The one line that the driver says when it gives up."""
    done = subprocess.run([*driver, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("tritium-driver: ").strip()


def test_it_knows_the_instruction_sets_of_the_module(driver: Command) -> None:
    assert tuple(instruction_sets(driver).items()) == isa_status()


def test_every_instruction_set_gives_the_golden_bits(driver: Command, planned: tuple[Plan, Path]) -> None:
    plan, bundle = planned
    sequences = token_sequences(plan.vocab_size, LENGTHS)
    for isa, status in instruction_sets(driver).items():
        if status == "ok":
            (result,) = read_results(drive(driver, bundle, "--isa", isa, "--threads", "2"))
            assert sha256(forward(Recorder(plan, result), sequences, None)) == GOLDEN  # type: ignore[arg-type]


def test_joined_bundles_are_one(driver: Command, planned: tuple[Plan, Path], tmp_path: Path) -> None:
    joined = tmp_path / "joined.bundle"
    joined.write_bytes(2 * planned[1].read_bytes())
    first, second = read_results(drive(driver, joined))
    assert len(first.batches) == len(second.batches) == len(LENGTHS)
    for a, b in zip(first.batches, second.batches, strict=True):
        assert a.logits is not None
        assert b.logits is not None
        assert a.logits.tobytes() == b.logits.tobytes()


def test_it_prints_a_line_for_each_kernel(driver: Command, planned: tuple[Plan, Path]) -> None:
    plan, bundle = planned
    done = subprocess.run([*driver, bundle], capture_output=True, text=True, check=True)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [(int(line[0]), line[1]) for line in lines] == [
        (i, choice.kernel) for i, step in enumerate(plan.steps) for choice in step.choices
    ]
    embedding = lines[0]
    assert embedding[2:6] == [
        str(len(LENGTHS)),
        "0",
        "0",
        str(sum(LENGTHS) * plan.residents[0].nbytes // plan.vocab_size),
    ]


def test_a_plan_for_another_machine_is_refused(driver: Command, tmp_path: Path) -> None:
    here = {isa for isa, status in instruction_sets(driver).items() if status == "ok"}
    foreign = next(isa for isa in ("neon", "avx2") if isa not in here)
    with open_gguf(write_tiny(tmp_path / "model.gguf", MODEL)) as file:
        plan = make_plan(build_graph(file), CpuBackend((foreign,)), max_tokens=300, max_outputs=300)
        recorder = Recorder(plan)
        forward(recorder, token_sequences(plan.vocab_size, (3,)), None)  # type: ignore[arg-type]
        bundle = dump(plan, file, recorder.batches, tmp_path / "model.bundle")
    assert f"_{foreign} does not run here" in refused(driver, bundle)
    assert f"instruction set {foreign}: not compiled" in refused(driver, "--isa", foreign, bundle)
    assert len(list(read_results(drive(driver, bundle, "--isa", "scalar")))) == 1


def test_wrong_usage_is_told_apart(driver: Command, tmp_path: Path) -> None:
    for arguments in ((), ("--threads",), ("--threads", "two", "x"), ("a", "b"), ("--state", "a"), ("--unknown", "a")):
        done = subprocess.run([*driver, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("tritium-driver [--isa NAME]")
    assert "No such file" in refused(driver, tmp_path / "nothing.bundle")


def test_a_truncated_bundle_is_refused(driver: Command, planned: tuple[Plan, Path], tmp_path: Path) -> None:
    whole, path = planned[1].read_bytes(), tmp_path / "part.bundle"
    for size in (0, 1, 63, 64, 100, len(whole) // 2, len(whole) - 64, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert refused(driver, path)


def section(tag: bytes, data: bytes = b"", nbytes: int | None = None) -> bytes:
    header = struct.pack("<8sQq40x", tag, len(data) if nbytes is None else nbytes, 1)
    return header + data + bytes(-len(data) % 64)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (section(b"batch"), "a batch ends in the middle of an array"),
        (section(b"batch", struct.pack("<6i", 1, 1, 1, 1, 0, 0)), "a batch ends in the middle of an array"),
        (section(b"batch", struct.pack("<6i", 0, -1, -1, 0, 0, 0)), "a batch of negative size"),
        (
            section(b"batch", struct.pack("<6i", 0, 2**31 - 1, 2**31 - 1, 0, 0, 0)),
            "a batch ends in the middle of an array",
        ),
        (section(b"batch", struct.pack("<6i", 0, 0, 0, 0, 0, 1)), "temperatures of another number than the outputs"),
        (section(b"batch", struct.pack("<6i", -1, 0, 0, 0, 0, 0)), "a batch ends in the middle of an array"),
        (section(b"batch", struct.pack("<10i", 1, 1, 1, 0, 0, 0, 10**6, 0, 0, 0)), "token: expected 0 to"),
        (section(b"arena", bytes(64)), "an arena of another size"),
        (section(b"cache", bytes(64)), "a cache of another size"),
        (section(b"resident", bytes(64)), "a resident follows the first use of its plan"),
        (section(b"unheard"), "a section 'unheard'"),
        (section(b"batch", nbytes=2**63), "the bundle ends in the middle of a section"),
        (section(b"batch", nbytes=2**64 - 1), "the bundle ends in the middle of a section"),
        (section(b"plan", b"TRITPLAN" + bytes(120)), "plan: version 0"),
    ],
)
def test_a_wrong_section_is_refused(
    driver: Command, planned: tuple[Plan, Path], tmp_path: Path, wrong: bytes, said: str
) -> None:
    path = tmp_path / "wrong.bundle"
    path.write_bytes(planned[1].read_bytes() + wrong)
    assert said in refused(driver, path)
    path.write_bytes(wrong)
    assert refused(driver, path)


def test_results_that_are_not_whole_are_refused(driver: Command, planned: tuple[Plan, Path], tmp_path: Path) -> None:
    results = drive(driver, planned[1])
    whole, path = results.read_bytes(), tmp_path / "part.results"
    for size in (32, 64, 128, len(whole) - 64):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError, match="results end"):
            list(read_results(path))
    path.write_bytes(section(b"logits", bytes(64)))
    with pytest.raises(FormatError, match="a section out of place"):
        list(read_results(path))


def test_a_bundle_takes_arrays_as_they_come(tmp_path: Path) -> None:
    """A view that is not contiguous is written in its own order."""
    path = tmp_path / "state.bundle"
    values = np.arange(32, dtype=np.uint8).reshape(4, 8).T
    with BundleWriter(path) as bundle:
        bundle.state(values)
    assert path.read_bytes() == section(b"arena", values.tobytes()).replace(
        struct.pack("<q", 1), struct.pack("<q", 0), 1
    )
