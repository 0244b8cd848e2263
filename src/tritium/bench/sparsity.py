"""The zeros of feed-forward layers, as the work shows that the executor left out because of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from tritium.receipts import registry
from tritium.types import StepCount, Trace


@dataclass(frozen=True, slots=True)
class Sparsity:
    """Shares of zeros over all layers and in each.

    ``zero_gates``: of gates that are not above 0, whose rows of ffn_up were not multiplied; ``zero_codes``: of int8 codes that
    are 0 in front of ffn_down, whose columns were not.
    """

    zero_gates: float | None
    zero_codes: float | None
    zero_gates_by_layer: tuple[float, ...]
    zero_codes_by_layer: tuple[float, ...]


def sparsity(trace: Trace) -> Sparsity | None:
    """What was skipped over what there was; None if no kernel ran that skips."""
    gates, codes = (_by_step(trace, reason) for reason in ("zero_gate", "zero_code"))
    if not gates and not codes:
        return None
    return Sparsity(
        _share(chain(*gates)) if gates else None,
        _share(chain(*codes)) if codes else None,
        tuple(map(_share, gates)),
        tuple(map(_share, codes)),
    )


def _by_step(trace: Trace, reason: str) -> list[list[StepCount]]:
    """The counts of kernels that skip for a reason: of one token and of many together, step by step."""
    steps: dict[str, list[StepCount]] = {}
    for c in trace.counts:
        if c.calls and registry.skip_reason(c.kernel) == reason:
            steps.setdefault(c.step, []).append(c)
    return list(steps.values())


def _share(counts: Iterable[StepCount]) -> float:
    pairs = [(c.macs_skipped, c.macs + c.macs_skipped) for c in counts]
    return sum(skipped for skipped, _ in pairs) / sum(total for _, total in pairs)
