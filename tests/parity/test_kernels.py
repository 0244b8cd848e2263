"""Every kernel that runs here against the numeric profile: the same bits, and not a byte touched beside them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel_cases import CASES
from kernel_checks import cases_of, check
from tritium import _native
from tritium.kernel_table import TableRow, kernel_table

ROOT = Path(__file__).parents[2]
ROWS = [row for row in kernel_table() if row.isa in _native.isas()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_kernel_gives_the_bits_of_the_profile(row: TableRow) -> None:
    for i, case in enumerate(cases_of(row)):
        wrong = check(row, case, 3 if i % 9 == 8 else 1)
        assert wrong is None, f"{case.label}: {wrong}"


def test_every_usable_instruction_set_covers_the_whole_table() -> None:
    listed = {(row.id, row.op, row.layout, row.isa, row.t_min, row.t_max) for row in ROWS}
    assert listed == set(_native.kernels())
    assert {row.op for row in kernel_table()} <= set(CASES)


def test_no_instruction_set_fails_its_self_test() -> None:
    """A kernel that the self-test refuses is not among those that the tests above enumerate."""
    status = dict(_native.isa_status())
    assert set(status.values()) <= {"ok", "not compiled", "cpu lacks it"}, status
    assert status["scalar"] == "ok"


def objects() -> Iterator[Path]:
    """Object files of kernel units below build/, of this system; without those of sanitizers, which add symbols of their own."""
    for commands in sorted((ROOT / "build").glob("*/compile_commands.json")):
        if "-fsanitize" not in commands.read_text(encoding="utf-8"):
            for path in sorted(commands.parent.glob("CMakeFiles/*/csrc/isa/*.cpp.o")):
                with path.open("rb") as file:
                    if file.read(4) == b"\x7fELF":
                        yield path


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm on this machine")
def test_kernel_units_have_internal_linkage_only() -> None:
    found = list(objects())
    if not found:
        pytest.skip("no object files below build/")
    for path in found:
        listed = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout.splitlines()
        symbols = [line.split()[-2:] for line in listed]
        shared = {name for kind, name in symbols if (kind.isupper() and kind != "U") or kind in "uvw"}
        isa = path.stem.removesuffix(".cpp")
        assert shared - {f"tritium_sha256_{isa}"} == {f"tritium_kernels_{isa}"}, path
        needed = {name for kind, name in symbols if kind == "U"}
        assert not {name for name in needed if name.startswith("_Z")}, path
