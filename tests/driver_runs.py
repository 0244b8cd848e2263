"""The native core without Python: tritium-driver for Arm under an emulator, or as it was built for this machine."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tritium.bundle import ProgramResult, dump_bundle
from tritium.formats.gguf import GGUFFile
from tritium.ir import Plan
from tritium.types import Batch, StepResult

ROOT = Path(__file__).resolve().parents[1]
COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64"

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
    folder = ROOT / "build" / "aarch64"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:  # of several test processes one builds
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(["make", "-s", "arm-driver"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return (EMULATOR, str(folder / "tritium-driver"))


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
