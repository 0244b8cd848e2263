"""The zeros of feed-forward layers, as the work shows that the executor left out because of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tritium.receipts import registry
from tritium.types import StepCount, Trace


@dataclass(frozen=True, slots=True)
class Sparsity:
    """Shares of zeros over all layers and in each.

    ``zero_gates``: of gates that are not above 0, whose rows of ffn_up were not read; ``zero_codes``: of int8 codes that are 0
    in front of ffn_down, whose columns were not read.
    """

    zero_gates: float | None
    zero_codes: float | None
    zero_gates_by_layer: tuple[float, ...]
    zero_codes_by_layer: tuple[float, ...]


def sparsity(trace: Trace) -> Sparsity | None:
    """What was skipped over what there was; None if no kernel ran that skips, as with prompts alone."""
    gates, codes = (
        [c for c in trace.counts if c.calls and registry.skip_reason(c.kernel) == reason]
        for reason in ("zero_gate", "zero_code")
    )
    if not gates and not codes:
        return None
    return Sparsity(
        _share(gates) if gates else None,
        _share(codes) if codes else None,
        tuple(_share([c]) for c in gates),
        tuple(_share([c]) for c in codes),
    )


def _share(counts: Iterable[StepCount]) -> float:
    pairs = [(c.macs_skipped, c.macs + c.macs_skipped) for c in counts]
    return sum(skipped for skipped, _ in pairs) / sum(total for _, total in pairs)
