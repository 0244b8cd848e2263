"""Look for what cannot be, or is unlikely to be, a trained ternary model: every tensor is read once and judged by a policy.

Nothing is ever corrected: a verdict is all that comes out. Tensors stream; memory does not grow with the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tritium.formats.gguf import GGUFFile
from tritium.formats.sanity_policy import Bound, Policy, RuleSet
from tritium.layouts import LAYOUTS, Bytes, Floats, Layout

Verdict: TypeAlias = Literal["PASS", "ATTENTION", "FAIL", "N-A"]
Range: TypeAlias = tuple[float, float]

EVERY = "every tensor"
NO_RULE = "no rule"

# Weights decoded at a time: the temporaries of a piece stay in the cache.
_PIECE_WEIGHTS = 1 << 20
_INVALID, _ZERO = 3, 1


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was counted in one tensor. None: does not apply.

    ``bits``: bits a weight, as its layout stores it; ``nonfinite``: values and scales that are NaN or Inf; ``invalid_codes``:
    ternary codes 3; ``rms``: root mean square of the finite values, a ternary one being scale · trit; ``scale``: smallest and
    largest finite scale of a ternary tensor; ``zero_fraction``: share of zeros among valid trits; ``zero_rows``: share of a
    matrix's rows, one an output, that hold zeros only.
    """

    tensor: str
    bits: float
    nonfinite: int
    invalid_codes: int | None
    rms: float | None
    scale: Range | None
    zero_fraction: float | None
    zero_rows: float | None

    def value(self, check: str) -> Range | None:
        """The value of a check as its smallest and largest, which differ for scales only."""
        value: Range | float | None = getattr(self, check)
        return (float(value), float(value)) if isinstance(value, int | float) else value


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of one role.

    ``n_tensors``: those it applies to; ``low``, ``high``: over them; ``outside``: those beyond the bound, with their values;
    ``check`` None: a role without tensors, or tensors without a rule; ``note``: why.
    """

    role: str
    check: str | None
    n_tensors: int
    low: float | None
    high: float | None
    bound: Bound | None
    verdict: Verdict
    note: str
    outside: tuple[tuple[str, Range], ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The judgement of a file: by which policy and set, what was found, and what was measured."""

    policy: Policy
    rules: RuleSet
    findings: tuple[Finding, ...]
    measurements: tuple[Measurement, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all findings, N-A aside."""
        return _worst([finding.verdict for finding in self.findings])

    def count(self, verdict: Verdict) -> int:
        """How many findings have a verdict."""
        return sum(finding.verdict == verdict for finding in self.findings)


def inspect_sanity(file: GGUFFile, policy: Policy) -> Report:
    """Read every tensor once and judge the file. Errors: UnsupportedError if the policy has no rule set for it."""
    architecture = file.get("general.architecture", str, "unknown")
    file_type = file.get("general.file_type", int, -1)
    rules = policy.choose(architecture, None if file_type < 0 else file_type)
    measurements = tuple(measure(file, name) for name in file.tensors)
    return Report(policy, rules, judge(measurements, policy, rules), measurements)


def judge(measurements: Sequence[Measurement], policy: Policy, rules: RuleSet) -> tuple[Finding, ...]:
    """Compare measurements with the bounds for every tensor and with those of the first rule that matches its name."""
    by_role: dict[str, list[Measurement]] = {rule.role: [] for rule in rules.rules}
    free: list[Measurement] = []
    for measurement in measurements:
        rule = rules.rule(measurement.tensor)
        (free if rule is None else by_role[rule.role]).append(measurement)
    findings = [_finding(EVERY, bound, measurements, "") for bound in policy.every]
    for rule in rules.rules:
        group = by_role[rule.role]
        if group:
            findings += [_finding(rule.role, bound, group, rule.why) for bound in rule.bounds]
        else:
            findings.append(Finding(rule.role, None, 0, None, None, None, "N-A", "no such tensor"))
    if free:
        names = ", ".join(measurement.tensor for measurement in free[:3]) + (", …" if len(free) > 3 else "")
        findings.append(Finding(NO_RULE, None, len(free), None, None, None, "N-A", names))
    return tuple(findings)


def _finding(role: str, bound: Bound, group: Sequence[Measurement], why: str) -> Finding:
    values = [(m.tensor, value) for m in group if (value := m.value(bound.check)) is not None]
    if not values:
        return Finding(role, bound.check, 0, None, None, bound, "N-A", "applies to none of these tensors")
    low, high = min(value[0] for _, value in values), max(value[1] for _, value in values)
    outside = tuple((name, value) for name, value in values if not bound.holds(*value))
    verdict: Verdict = bound.outside if outside else "PASS"
    return Finding(role, bound.check, len(values), low, high, bound, verdict, why if outside else "", outside)


def _worst(verdicts: Sequence[Verdict]) -> Verdict:
    order: tuple[Verdict, ...] = ("FAIL", "ATTENTION", "PASS")
    return next((verdict for verdict in order if verdict in verdicts), "N-A")


def measure(file: GGUFFile, name: str) -> Measurement:
    """Read one tensor, a piece at a time, whatever its values: nothing in the data is an error here."""
    info = file.tensor(name)
    layout = LAYOUTS[info.layout]
    rows = _ZeroRows(info.shape[-1], layout.interleaved_rows)
    tally = _TernaryTally(layout, _tail_scale(file.data(name), layout)) if layout.is_ternary else _FloatTally(layout)
    step = max(1, _PIECE_WEIGHTS // layout.block) * layout.block_bytes
    for piece in file.pieces(name, step, info.nbytes - layout.tail_bytes):
        rows.add(tally.add(piece.reshape(-1, layout.block_bytes)))
    is_matrix = len(info.shape) > 1
    return Measurement(
        tensor=name,
        bits=layout.bits,
        nonfinite=tally.nonfinite,
        invalid_codes=tally.invalid if isinstance(tally, _TernaryTally) else None,
        rms=math.sqrt(tally.squares / tally.counted) if tally.counted else None,
        scale=tally.scale_range() if isinstance(tally, _TernaryTally) else None,
        zero_fraction=tally.zeros / tally.valid if isinstance(tally, _TernaryTally) and tally.valid else None,
        zero_rows=rows.count / math.prod(info.shape[:-1]) if is_matrix else None,
    )


def _tail_scale(data: Bytes, layout: Layout) -> float | None:
    if not layout.tail_bytes:
        return None
    start = len(data) - layout.tail_bytes
    return float(data[start : start + 4].copy().view("<f4")[0])


class _FloatTally:
    """Counts of a float tensor."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.nonfinite = self.counted = 0
        self.squares = 0.0

    def add(self, blocks: Bytes) -> NDArray[np.bool_]:
        """Count blocks (B, block_bytes) u8; returns which of their weights, (B · block,), are not zero."""
        with np.errstate(invalid="ignore", over="ignore"):  # a damaged scale times 0
            values: Floats = np.asarray(self._layout.decode(blocks), np.float32).reshape(-1)
        nonzero: NDArray[np.bool_] = values != 0
        finite = np.isfinite(values)
        n_finite = int(np.count_nonzero(finite))
        self.nonfinite += values.size - n_finite
        self.counted += n_finite
        kept = values if n_finite == values.size else values[finite]
        self.squares += float(np.einsum("i,i->", kept, kept, dtype=np.float64))
        return nonzero


class _TernaryTally:
    """Counts of a ternary tensor, whose one scale is given, or else stands in each block."""

    def __init__(self, layout: Layout, scale: float | None) -> None:
        self._layout, self._scale = layout, scale
        self.nonfinite = self.counted = self.valid = self.invalid = self.zeros = 0
        self.squares = 0.0
        self._low, self._high = math.inf, -math.inf
        if scale is not None:
            self._note(np.array([scale], np.float32))

    def add(self, blocks: Bytes) -> NDArray[np.bool_]:
        """Count blocks (B, block_bytes) u8; returns which of their weights, (B · block,), are not zero."""
        layout = self._layout
        codes = layout.decode(blocks[:, : layout.block_bytes - (2 if layout.group else 0)])
        zero = codes == _ZERO
        invalid = int(np.count_nonzero(codes == _INVALID))
        n_zeros = int(np.count_nonzero(zero))
        self.invalid += invalid
        self.valid += zero.size - invalid
        self.zeros += n_zeros
        nonzero: NDArray[np.bool_] = np.logical_not(zero, out=zero)
        if self._scale is not None:
            if math.isfinite(self._scale):
                self.counted += zero.size - invalid
                self.squares += float(np.float64(self._scale) ** 2) * (zero.size - n_zeros - invalid)
                if self._scale == 0:
                    nonzero[:] = False
            return nonzero.reshape(-1)
        scales = blocks[:, layout.scale_at : layout.scale_at + 2].copy().view("<f2").astype(np.float64).reshape(-1)
        finite = self._note(scales)
        kept = (codes != _INVALID) if invalid else np.ones_like(zero)
        self.counted += int(np.count_nonzero(kept[finite]))
        per_block = np.count_nonzero(nonzero & kept if invalid else nonzero, axis=1)
        self.squares += float(
            np.einsum("i,i,i->", scales[finite], scales[finite], per_block[finite].astype(np.float64))
        )
        nonzero[scales == 0] = False
        return nonzero.reshape(-1)

    def _note(self, scales: NDArray[np.floating]) -> NDArray[np.bool_]:
        finite: NDArray[np.bool_] = np.isfinite(scales)
        self.nonfinite += scales.size - int(np.count_nonzero(finite))
        if finite.any():
            self._low = min(self._low, float(scales[finite].min()))
            self._high = max(self._high, float(scales[finite].max()))
        return finite

    def scale_range(self) -> Range | None:
        """The smallest and largest finite scale."""
        return (self._low, self._high) if self._low <= self._high else None


class _ZeroRows:
    """Counts rows without a nonzero weight in a stream of weights; a row may end anywhere in a piece, or many pieces later.

    ``interleaved``: so many rows stand side by side, one weight of each in turn.
    """

    def __init__(self, width: int, interleaved: int) -> None:
        self._width = width
        self._filled = 0
        self._open = [False] * interleaved
        self.count = 0

    def add(self, nonzero: NDArray[np.bool_]) -> None:
        lanes = len(self._open)
        size = nonzero.size // lanes
        starts = np.arange(self._width - self._filled, size, self._width)
        starts = np.concatenate([np.zeros(1, starts.dtype), starts])
        complete, rest = divmod(self._filled + size, self._width)
        for lane in range(lanes):
            found = np.logical_or.reduceat(nonzero[lane::lanes], starts)
            found[0] |= self._open[lane]
            self.count += complete - int(np.count_nonzero(found[:complete]))
            self._open[lane] = bool(found[-1]) if rest else False
        self._filled = rest
