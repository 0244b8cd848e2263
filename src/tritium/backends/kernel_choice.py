"""Which kernels and layouts the native core has for a plan: what can be said of any machine without its native module."""

from __future__ import annotations

from collections.abc import Mapping

from tritium.backends import KernelRow, refuse_screen
from tritium.backends.tuning import NAMES, Measure, quicker
from tritium.errors import UnsupportedError
from tritium.kernel_table import kernel_table
from tritium.layouts import I2S_LAYOUTS, LAYOUTS, head_plane_bytes
from tritium.ops import SCREENED_HEAD

PANEL_ROWS = 16
ALIGNMENT = 64
PANELS = {"i2s": (16, 64), "tq1": (80, 256)}
"""Layouts of panels of 16 rows: columns and bytes of their unit."""
GROUPS_LAYOUT = "i2s_groups"
GROUP, GROUP_BYTES = 256, 16 * 64 + 64
"""Columns that share a scale in that layout, and what sixteen rows of them take."""
WEIGHT_LAYOUTS = {name: layout for layout, name in NAMES.items()}
"""What a caller may ask for by name."""
PLANE_LAYOUT = "plane44"
SCREEN_VOCAB = 1 << 14
"""From this many rows on the head weighs enough for its plane to pay."""
SCREEN_DEPTH = 1 << 16
SPARSE_DEPTH = (1 << 17) - 1
TRIT_DEPTH = 1 << 16
LARGE_WEIGHTS = 1 << 20
"""From this many weights on a matrix is worth a second layout, or a choice of layouts."""
DIALECTS = {**{layout: dialect for dialect, layout in I2S_LAYOUTS.items()}, "tq1_0": "tq1_0", "tq2_0": "tq2_0"}
"""Ternary layouts of files by their names in the native core."""
COLUMNS_LAYOUT = "i2s_columns"
"""A ternary matrix by columns."""
ROWS_LAYOUT = I2S_LAYOUTS["128"]
_ROWS_FROM = (ROWS_LAYOUT, "tq1_0", "tq2_0")
_SPARSE_ISAS = ("avx512vnni", "avxvnni", "avx2")
"""Where a part of a matrix is quicker than all of it."""
_TABLES = ("f32", "f16", "bf16", "q8_0", "q6_k")


class KernelChoice:
    """Fuses norm and quantization, stacks linears of one input, adds into the residual; ternary weights in 16-row panels.

    ``order`` names instruction sets, best first.
    """

    name = "cpu"
    fused = frozenset({"rmsnorm_quantize", "stacked", "accumulate"})
    panel_rows = PANEL_ROWS

    def __init__(
        self, order: tuple[str, ...], usable: frozenset[str] | None = None,
        time_layouts: Measure | None = None,
    ) -> None:  # fmt: skip
        """``usable``: ids of the kernels that run here, None for all; ``time_layouts`` times a token's product by a matrix."""
        known = dict.fromkeys(row.isa for row in kernel_table())
        for isa in order:
            if isa not in known:
                raise UnsupportedError("instruction set", expected=" or ".join(known), got=isa)
        rows = (row for row in kernel_table() if row.isa in order and (usable is None or row.id in usable))
        self._rows = sorted(rows, key=lambda row: (order.index(row.isa), row.t_min))
        self._time_layouts = time_layouts

    def kernels(self, op: str, layout: str, attrs: Mapping[str, float]) -> tuple[KernelRow, ...]:
        """The best instruction set's rows for the op and layout, in ascending order of T."""
        if op == "linear" and (attrs["group"] not in (0, GROUP) or attrs["act_bits"] != 8):
            raise UnsupportedError(
                "no native kernel",
                where=f"linear with {int(attrs['act_bits'])}-bit activations and "
                + (f"a scale per {int(attrs['group'])} weights" if attrs["group"] else "one scale per tensor"),
                expected=f"8-bit activations and one scale per tensor or per {GROUP} weights",
                hint="Run it with --backend reference",
            )
        chosen: list[KernelRow] = []
        needed = 1
        for row in self._rows:
            if row.op == op and row.layout in (layout, "none") and row.t_min == needed:
                chosen.append(KernelRow(row.id, row.t_min, row.t_max))
                needed = row.t_max + 1
                if not row.t_max:
                    return tuple(chosen)
        raise UnsupportedError("no native kernel", where=f"{op} on {layout}", hint="Run it with --backend reference")

    def resident_layout(self, op: str, file_layout: str) -> str:
        """Vectors become f32; embedding and head stay as they are in the file."""
        if op in ("screen", "refine"):
            return PLANE_LAYOUT
        if op in ("embedding", "logits_projection", "threshold", "rescore"):
            if file_layout not in _TABLES:
                raise UnsupportedError(
                    "no native kernel", where=f"{op} on {file_layout}", expected=" or ".join(_TABLES)
                )
            return file_layout
        return "f32"

    def linear_layout(self, file_layout: str, n: int, k: int, weight_layout: str, *, group: int = 0) -> str:
        """Panels of 2 or 1.6 bits a weight. "auto": of a large matrix those that took less time, where somebody has timed them.

        With a scale a group there is one layout, of 2 bits.
        """
        if group:
            if weight_layout == "1.6bit":
                raise UnsupportedError("a matrix has a scale a group", expected="2 bits", got="1.6 bits")
            return GROUPS_LAYOUT
        if weight_layout != "auto":
            if weight_layout != "2bit" and k > TRIT_DEPTH:
                raise UnsupportedError(
                    "a matrix is too deep for 1.6 bits", expected=f"at most {TRIT_DEPTH} columns", got=k
                )
            return WEIGHT_LAYOUTS[weight_layout]
        plain = WEIGHT_LAYOUTS["2bit"]
        if self._time_layouts is None or k > TRIT_DEPTH or n * k < LARGE_WEIGHTS:
            return plain
        # Kernels that no one tuned are not worth the time.
        isas = {layout: self._best("linear", layout) for layout in PANELS}
        candidates = tuple(layout for layout, isa in isas.items() if isa not in (None, "scalar"))
        if len(candidates) < 2:
            return plain
        return quicker(self._time_layouts(n, k, candidates))

    def _best(self, op: str, layout: str) -> str | None:
        return next((row.isa for row in self._rows if row.op == op and row.layout == layout), None)

    def resident_bytes(self, layout: str, rows: int, cols: int) -> int:
        """Panels, then a float32 scale a panel; planes: two half bytes; else the file's."""
        if layout in PANELS:
            panels, (columns, unit) = rows // PANEL_ROWS, PANELS[layout]
            return panels * -(-cols // columns) * unit + -(-panels * 4 // ALIGNMENT) * ALIGNMENT
        if layout == GROUPS_LAYOUT:
            return rows // PANEL_ROWS * (cols // GROUP) * GROUP_BYTES
        if layout == COLUMNS_LAYOUT:
            return cols * -(-rows // 256) * 64 + ALIGNMENT
        if layout == PLANE_LAYOUT:
            return sum(head_plane_bytes(rows, cols)) + ALIGNMENT
        return LAYOUTS[layout].nbytes((rows, cols))

    def head_plane(self, file_layout: str, vocab: int, k: int, head_screen: str) -> str | None:
        """Any head, once the vocabulary is large and integer products are quicker than memory."""
        best = self._rows[0].isa
        if head_screen == "off" or (head_screen == "auto" and (vocab < SCREEN_VOCAB or best == "scalar")):
            return None
        covered = {row.op for row in self._rows if row.layout in (PLANE_LAYOUT, file_layout)}
        if k <= SCREEN_DEPTH and covered.issuperset(SCREENED_HEAD):
            return PLANE_LAYOUT
        refuse_screen(head_screen, f"{file_layout}, {k} columns")
        return None

    def sparse_layout(self, file_layout: str, n: int, k: int, *, by_columns: bool, ffn_sparsity: str) -> str | None:
        """Rows of I2_S in blocks of 128, columns of any ternary layout; "auto": large matrices, tuned kernels."""
        if max(n, k) > SPARSE_DEPTH:
            return None
        if ffn_sparsity == "auto" and (n * k < LARGE_WEIGHTS or self._rows[0].isa not in _SPARSE_ISAS):
            return None
        if not by_columns and (file_layout not in _ROWS_FROM or k % 128):
            return None
        layout = COLUMNS_LAYOUT if by_columns else ROWS_LAYOUT
        return layout if self._best("linear", layout) else None
