"""The kernel table as Python reads it, and planning for machines that are not this one."""

from __future__ import annotations

from pathlib import Path

import pytest

import tritium
from tiny_models import TINY, write_tiny
from tritium import _native
from tritium.backends.cpu import CpuBackend
from tritium.errors import FormatError, UnsupportedError
from tritium.formats.gguf import open_gguf
from tritium.kernel_table import TableRow, kernel_table, parse
from tritium.models import build_graph
from tritium.plan import make_plan


def test_the_installed_table_is_that_of_the_sources(repository: Path) -> None:
    assert kernel_table() == parse((repository / "csrc" / "kernels.inc").read_text(encoding="utf-8"))


def test_every_instruction_set_has_the_same_rows() -> None:
    """So any of them may take another's place in a plan."""
    by_isa: dict[str, set[tuple[str, str, int, int]]] = {}
    for row in kernel_table():
        by_isa.setdefault(row.isa, set()).add((row.op, row.layout, row.t_min, row.t_max))
    assert set(by_isa) == {name for name, _ in _native.isa_status()}
    assert all(rows == by_isa["scalar"] for rows in by_isa.values())


def test_a_row_is_read() -> None:
    text = "// a comment\n\n#if TRITIUM_ROWS(avx2)\nKERNEL(i2s_gemm_avx2, linear, i2s, avx2, 2, 0, quantized)\n#endif\n"
    assert parse(text) == (TableRow("i2s_gemm_avx2", "linear", "i2s", "avx2", 2, 0, "quantized"),)


@pytest.mark.parametrize("line", ["KERNEL(a, b, c, d, 1, 0)", "KERNEL(a, b, c, d, 1, -1, e)", "kernel", "#if 1"])
def test_another_line_is_refused(line: str) -> None:
    with pytest.raises(FormatError, match="kernel table: line 2"):
        parse(f"// rows\n{line}\n")


def test_a_package_without_the_table_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel_table.cache_clear()
    monkeypatch.setattr(tritium, "__path__", [str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="kernels.inc"):
        kernel_table()


@pytest.mark.parametrize("name", TINY)
def test_plans_for_other_machines_differ_in_kernels_only(name: str, tmp_path: Path) -> None:
    with open_gguf(write_tiny(tmp_path / "model.gguf", name)) as file:
        graph = build_graph(file)
        plans = {isa: make_plan(graph, CpuBackend((isa,))) for isa in ("scalar", "neon", "neondot", "neoni8mm")}
    for isa, plan in plans.items():
        assert (plan.buffers, plan.residents, plan.graph_hash) == (
            plans["scalar"].buffers,
            plans["scalar"].residents,
            plans["scalar"].graph_hash,
        )
        assert {choice.kernel.rpartition("_")[2] for step in plan.steps for choice in step.choices} == {isa}
    assert len({plan.hash for plan in plans.values()}) == len(plans)


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"instruction set: expected .*neon.*, got sse9"):
        CpuBackend(("sse9",))
