"""The core for systems that are not at hand: it compiles for all of them, and for Windows on x86-64 gives the golden bits."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from driver_runs import MODELS, ROOT, Command, check_golden_bits, driver_for, instruction_sets, windows_driver

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]

HEADERS = {
    "x86_64-windows-gnu": bytes.fromhex("50450000 6486"),  # PE signature and machine
    "aarch64-windows-gnu": bytes.fromhex("50450000 64aa"),
    "x86_64-macos": bytes.fromhex("cffaedfe 07000001"),  # Mach-O magic and processor
    "aarch64-macos": bytes.fromhex("cffaedfe 0c000001"),
}
ISAS = ("avx512vnni", "avxvnni", "avx2", "scalar")
UNDEFINED = '#include "platform.h"\nint main() { return tritium::survives([] { asm volatile("ud2"); }) ? 1 : 0; }\n'


@pytest.fixture(scope="module")
def driver() -> Command:
    return windows_driver()


@pytest.mark.parametrize("target", HEADERS)
def test_the_core_compiles(target: str) -> None:
    content = driver_for(target).read_bytes()
    start = int.from_bytes(content[0x3C:0x40], "little") if content[:2] == b"MZ" else 0
    assert content[start:].startswith(HEADERS[target])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("isa", ISAS)
def test_windows_gives_the_golden_bits(driver: Command, name: str, isa: str, tmp_path: Path) -> None:
    status = instruction_sets(driver)[isa]
    if status == "cpu lacks it":
        pytest.skip(f"{isa}: {status}")
    assert status == "ok"
    check_golden_bits(driver, name, isa, tmp_path)


def test_windows_survives_an_instruction_that_the_processor_lacks(driver: Command, tmp_path: Path) -> None:
    source, program = tmp_path / "undefined.cpp", tmp_path / "undefined.exe"
    source.write_text(UNDEFINED)
    folder = ROOT / "build" / "x86_64-windows-gnu"
    command = [ROOT / "build" / "zig" / "bin" / "python", ROOT / "scripts" / "zig_cxx.py", "-target", folder.name,
               "-std=c++20", "-O2", f"-I{ROOT / 'csrc'}", source, folder / "libtritium_core.a", "-o", program]  # fmt: skip
    subprocess.run(command, check=True)
    assert subprocess.run([driver[0], program], check=False).returncode == 0
