"""The kernel table as csrc/kernels.inc has it: every native kernel of every platform, whether it runs here or not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import tritium
from tritium.errors import FormatError

FILE = "kernels.inc"
_ROW = re.compile(r"KERNEL\((\w+), (\w+), (\w+), (\w+), (\d+), (\d+), (\w+)\)")
_OTHER = re.compile(r"//.*|#if TRITIUM_ROWS\(\w+\)|#endif|")


@dataclass(frozen=True, slots=True)
class TableRow:
    """A kernel: the op and resident layout that it is for, its instruction set, t_min ≤ T ≤ t_max (0: unbounded) rows.

    ``layout`` is "none" where the kernel reads no weight whose layout matters.
    """

    id: str
    op: str
    layout: str
    isa: str
    t_min: int
    t_max: int
    kind: str


@cache
def kernel_table() -> tuple[TableRow, ...]:
    """All rows in the file's order.

    Errors: FileNotFoundError if the package was installed without the file; FormatError for a line that is no row.
    """
    # An editable installation has two folders: what was built stands in one, the sources in the other.
    for folder in tritium.__path__:
        path = Path(folder) / FILE
        if path.is_file():
            return parse(path.read_text(encoding="utf-8"))
    raise FileNotFoundError(f"{FILE}: not among the files of the package")


def parse(text: str) -> tuple[TableRow, ...]:
    """The rows of a table's text. Errors: FormatError for a line that is neither a row nor a guard nor a comment."""
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        row = _ROW.fullmatch(line)
        if row:
            kernel, op, layout, isa, t_min, t_max, kind = row.groups()
            rows.append(TableRow(kernel, op, layout, isa, int(t_min), int(t_max), kind))
        elif not _OTHER.fullmatch(line):
            raise FormatError(
                "kernel table",
                where=f"line {number}",
                expected="KERNEL(id, op, layout, ISA, t_min, t_max, class)",
                got=line,
            )
    return tuple(rows)
