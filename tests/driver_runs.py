"""The native core without Python: tritium-driver as it was built for this machine, or for others that are emulated here."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from forwarding import forward, sha256, token_sequences
from tiny_models import TINY, write_tiny
from tritium.backends.cpu import CpuBackend
from tritium.bundle import ProgramResult, dump_bundle, read_results
from tritium.formats.gguf import GGUFFile, open_gguf
from tritium.ir import Plan
from tritium.models import build_graph
from tritium.plan import make_plan
from tritium.types import Batch, StepResult

ROOT = Path(__file__).resolve().parents[1]
COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64"

DEMO = ROOT / "src" / "tritium" / "data" / "demo.gguf"
GOLDEN = json.loads((ROOT / "tests" / "parity" / "golden.json").read_text())
MODELS = (*TINY, "demo")
LENGTHS = (1, 70, 33, 270)
"""Of the sequences whose logits the golden hashes are over."""
CUTS = ((1, None, None), (2, 64, None), (3, 40, 1), (1, 7, None), (5, 300, 2), (2, None, None), (3, 9, 0))
"""(threads, chunk, seed of a random mix or None), by turns."""

Command = tuple[str, ...]
"""A driver and what runs it."""


def native_driver() -> Command:
    """The driver of this machine's build."""
    path = ROOT / "build" / "native" / "tritium-driver"
    if not path.is_file():
        pytest.skip("tritium-driver is not built; run 'make build'")
    return (str(path),)


@cache
def arm_driver() -> Command:
    """The driver for aarch64, linked statically, under the emulator; builds what is not current."""
    for tool in (COMPILER, EMULATOR, "cmake", "ninja"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    _make(ROOT / "build" / "aarch64", "arm-driver")
    return (EMULATOR, str(ROOT / "build" / "aarch64" / "tritium-driver"))


@cache
def driver_for(target: str) -> Path:
    """The driver for another system; builds what is not current."""
    if not (ROOT / "build" / "zig" / ".stamp").is_file():
        pytest.skip("ziglang is not installed; run 'make systems'")
    folder = ROOT / "build" / target
    _make(folder, f"build/{target}")
    return folder / ("tritium-driver.exe" if "windows" in target else "tritium-driver")


@cache
def windows_driver() -> Command:
    """The driver for Windows on x86-64, under wine."""
    wine = shutil.which("wine")
    if wine is None:
        pytest.skip("wine is not installed")
    os.environ.update(WINEPREFIX=str(ROOT / "build" / "wine"), WINEDEBUG="-all", WINEDLLOVERRIDES="mscoree,mshtml=")
    return (wine, str(driver_for("x86_64-windows-gnu")))


def _make(folder: Path, target: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:  # of several test processes one builds
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(["make", "-s", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def instruction_sets(driver: Command) -> dict[str, str]:
    """name → status of every instruction set that the driver knows."""
    done = subprocess.run([*driver, "--isas"], capture_output=True, text=True, check=True)
    return dict(line.split("\t", 1) for line in done.stdout.splitlines())  # type: ignore[misc]


def drive(driver: Command, bundle: Path, *options: str) -> Path:
    """Run a bundle; the file of its results."""
    output = bundle.with_suffix(".results")
    command = [*driver, "--output", output, *options, bundle]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


def check_golden_bits(driver: Command, name: str, isa: str, folder: Path) -> None:
    """Plan a tiny model or the embedded one for an instruction set, and hold the logits of the driver to the golden hash.

    The plan is made here for the other machine: nothing of it depends on where it is made.
    """
    threads, chunk, mix = CUTS[(MODELS.index(name) + len(isa)) % len(CUTS)]
    path = DEMO if name == "demo" else write_tiny(folder / "model.gguf", name)
    with open_gguf(path) as file:
        graph = build_graph(file)
        plan = make_plan(graph, CpuBackend((isa,)), max_tokens=300, max_outputs=300)
        sequences = token_sequences(graph.config.vocab_size, LENGTHS)
        recorder = Recorder(plan)
        forward(recorder, sequences, chunk, mix)  # type: ignore[arg-type]
        bundle = dump(plan, file, recorder.batches, folder / "model.bundle")
    (result,) = read_results(drive(driver, bundle, "--threads", str(threads)))
    assert sha256(forward(Recorder(plan, result), sequences, chunk, mix)) == GOLDEN[name]["logits"]  # type: ignore[arg-type]
    used = {plan.steps[step].choices[choice].kernel for step, choice, calls, *_ in result.counters if calls}
    assert {kernel.rpartition("_")[2] for kernel in used} == {isa}


class Recorder:
    """Stands where an executor stands, keeps the batches of its steps and answers with what is known to come out, or zeros."""

    def __init__(self, plan: Plan, results: ProgramResult | None = None) -> None:
        self.plan = plan
        self.batches: list[Batch] = []
        self._results = results

    def step(self, batch: Batch) -> StepResult:
        shape = (len(batch.outputs), self.plan.vocab_size)
        logits = None
        if self._results is not None:
            result = self._results.batches[len(self.batches)]
            assert result.failure[0] == 0
            logits = result.logits
        self.batches.append(batch)
        return StepResult(np.zeros(shape, np.float32) if logits is None else logits.reshape(shape))


def dump(plan: Plan, file: GGUFFile, batches: Sequence[Batch], path: Path) -> Path:
    """A bundle of the batches with as many cache blocks as they use."""
    dump_bundle(plan, file, batches, path, kv_blocks=1 + max(int(b.block_tables.max()) for b in batches))
    return path
