"""Record runs and write their receipt; in strict mode, refuse what a judge would refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritium import env

if TYPE_CHECKING:
    from tritium.engine.generate import Stream
    from tritium.engine.generation import GenerationResult
    from tritium.engine.model import Model
    from tritium.engine.sampling import SamplingParams
    from tritium.evidence.recorder import Recorder


class Recording:
    """The runs of one receipt: the first one is recorded, further ones show that its outcome comes again.

    ``path`` None records without writing: strict mode judges every run. ``nonce`` is what a verifier sent.
    """

    def __init__(
        self, model: Model, params: SamplingParams, path: Path | None, repeats: int | None, nonce: str | None = None
    ) -> None:
        self._model, self._params, self._path, self._nonce = model, params, path, nonce
        least = 2 if env.is_deterministic() and path is not None else 1
        self._n_runs = max(repeats or 1, least)
        self._first: Recorder | None = None

    def observe(self) -> Recorder | None:
        """What is to watch the generation that is submitted next: the first one's recorder, then nothing."""
        from tritium.evidence.recorder import recorder

        if self._first is not None:
            return None
        self._first = recorder(self._model, self._nonce)
        return self._first

    def finish(self, result: GenerationResult, start: Callable[[], Stream]) -> None:
        """Repeat the run and write its receipt. Errors: as ``finish_receipt``."""
        assert self._first is not None
        repeats = []
        for _ in range(self._n_runs - 1):
            with start() as stream:
                for _piece in stream:
                    pass
            repeats.append(stream.result)
        if any(again.finish_reason == "cancelled" for again in repeats):
            raise KeyboardInterrupt
        finish_receipt(self._model, [result], [self._first], self._params, [[r] for r in repeats], self._path)


def finish_receipt(
    model: Model, results: Sequence[GenerationResult], recorders: Sequence[Recorder], params: SamplingParams,
    repeats: Sequence[Sequence[GenerationResult]], path: Path | None,
) -> dict[str, Any]:  # fmt: skip
    """Build the receipt of sequences that ran together, judge it where that is asked for, and write it to ``path``, if any.

    Errors: NumericsError for a run that computed nothing, differs from its repeat though BITNET_DETERMINISTIC asks for
    equal ones, or that strict mode refuses; OSError.
    """
    from tritium.bench.machine import read_machine
    from tritium.errors import NumericsError
    from tritium.evidence.record import bandwidth, build_batch_receipt
    from tritium.receipts.schema import write

    receipt = build_batch_receipt(
        model, results, recorders, params, machine=asdict(read_machine()), probe=bandwidth(model), repeats=repeats
    )
    if env.is_deterministic() and path is not None and not receipt["deterministic"]:
        raise NumericsError("no receipt", where="BITNET_DETERMINISTIC", expected="equal repeats", got="different ones")
    if env.is_strict():
        _refuse(receipt)
    if path is not None:
        write(receipt, path)
    return receipt


def _refuse(receipt: dict[str, object]) -> None:
    """Strict mode: nothing that fails a check, no fallback, no unquantized linear layer. Errors: NumericsError."""
    from tritium.errors import NumericsError
    from tritium.gates import judge
    from tritium.receipts import jcs, registry

    verdict = judge(jcs.canonical(receipt))
    for check in verdict.failed:
        raise NumericsError(
            "strict mode refuses the run", where=check.id, expected=check.bound, got=check.value, hint=check.hint
        )
    kernels = receipt["kernels"]
    assert isinstance(kernels, list)
    fallback = [kernel for kernel in kernels if registry.is_fallback(kernel)]
    if fallback:
        raise NumericsError("strict mode refuses the run", where=fallback[0], expected="no fallback kernel")
    evidence = receipt["evidence"]
    assert isinstance(evidence, dict)
    quantized = evidence["ledger"]["quantized_fraction"]
    if quantized < 1:
        raise NumericsError(
            "strict mode refuses the run", where="linear layers", expected="all quantized", got=quantized
        )
