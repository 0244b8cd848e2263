"""The kernels of avxvnni where the processor lacks them. Where they run, all other tests take them like any instruction set's.

Two ways: the object as it was built, whose vpdpbusd are emulated one by one, and its assembly with that instruction in the
encoding of AVX-512, for processors that know the one and not the other.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import matrix
from tiny_models import write_tiny
from tritium.backends.cpu import build_info, isa_status
from tritium.kernel_table import kernel_table
from workshop import ROOT, Workshop, open_workshop

PROBE = ("isa.cpp", "has_all(read_features().leaf7_1_eax, kAvxVnni)", "true")
EMULATOR = ROOT / "tests" / "emulation" / "vpdpbusd.cpp"
LENGTHS = matrix.Lengths((41, 9, 3), (41, 8, 1))
STATUS = "from tritium import _native; print(dict(_native.isa_status())['avxvnni'])"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    status = dict(isa_status())
    if status["avxvnni"] != "cpu lacks it":
        pytest.skip(f"avxvnni: {status['avxvnni']}")
    if status["avx2"] != "ok" or sys.platform != "linux":
        pytest.skip("expected Linux and AVX2 for what is not emulated")
    return open_workshop(tmp_path_factory.mktemp("avxvnni"))


@pytest.fixture(scope="module")
def emulated(workshop: Workshop) -> Path:
    """The native module of this build that is told that the processor has AVX-VNNI, with the emulator."""
    probe, emulator = workshop.compile(*PROBE, unit="isa.cpp"), workshop.compile_beside(EMULATOR)
    return workshop.link_with("emulated", probe, emulator, options=["-Wl,--wrap=sigaction"])


@pytest.fixture(scope="module")
def evex(workshop: Workshop) -> Path:
    """The native module with the unit's assembly in the other encoding."""
    if dict(isa_status())["avx512vnni"] != "ok":
        pytest.skip("the processor has no vpdpbusd at all")
    unit = workshop.assemble("isa/avxvnni.cpp", "{vex}", "{evex}", "-mavx512vl", "-mavx512vnni")
    return workshop.link_with("evex", workshop.compile(*PROBE, unit="isa.cpp"), unit)


def pytest_on(module: Path, *arguments: str) -> str:
    """What pytest says of tests on a native module."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "--native", module]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def status_on(module: Path) -> str:
    use = f"import sys; sys.path.insert(0, 'tests'); import native_builds as n; n.use(n.Path({str(module)!r})); "
    return subprocess.run(
        [sys.executable, "-c", use + STATUS], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_probe_is_not_the_only_guard(workshop: Workshop) -> None:
    """A processor that is wrongly said to have AVX-VNNI ends in a status, not in a signal."""
    module = workshop.link_with("misled", workshop.compile(*PROBE, unit="isa.cpp"))
    assert status_on(module) == "illegal instruction"


def test_the_self_test_of_the_start_passes(emulated: Path) -> None:
    assert status_on(emulated) == "ok"


def check_kernels(module: Path) -> None:
    said = pytest_on(module, "tests/parity/test_kernels.py", "-k", "gives_the_bits and _avxvnni]")
    assert f"{sum(row.isa == 'avxvnni' for row in kernel_table())} passed" in said


def test_every_kernel_gives_the_bits_of_the_profile(evex: Path) -> None:
    check_kernels(evex)


def test_models_give_the_golden_bits(evex: Path) -> None:
    pytest_on(evex, "tests/parity/test_same_bits.py", "-k", "every_instruction_set and avxvnni")


@pytest.mark.nightly
def test_every_object_gives_the_bits_of_the_profile(emulated: Path) -> None:
    check_kernels(emulated)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["relu2_gqa_tied_chat", "silu_gqa_tied_head_dim_20"])
def test_a_model_gives_the_same_bits(emulated: Path, tmp_path: Path, name: str) -> None:
    """With the screened head and both layouts of panels; few tokens, for a product costs microseconds."""
    path = write_tiny(tmp_path / "model.gguf", name)
    digests = {}
    for isa in ("avxvnni", "scalar"):
        rows = [
            (str(path), {"isa": isa, "compiler": build_info()[0].split()[0], "threads": 2, "chunk": 7, "batch": 3, "reuse": True,
                         "screen": True, "sparse": name not in matrix.UNGATED, "layout": layout}, LENGTHS, 0)
            for layout in matrix.LAYOUTS
        ]  # fmt: skip
        command = [sys.executable, ROOT / "tests" / "matrix.py", emulated]
        done = subprocess.run(command, input=json.dumps(rows), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        digests[isa] = done.stdout.splitlines()
    assert len(digests["scalar"]) == len(matrix.LAYOUTS)
    assert digests["avxvnni"] == digests["scalar"]
