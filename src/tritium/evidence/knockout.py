"""Knock out one kernel at a time: does what a receipt commits to notice?

A kernel that is named in a receipt and whose absence changes nothing did no work there. Each one is made to do nothing in turn,
the same prompt is run again, and trace root, tokens and last logits are compared with those of the whole model; and the work of
the kernels, for some only spare others work ("work"), or prove that there is none ("own_work", which the ledger demands to the
integer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium.engine.sampling import SamplingParams
from tritium.errors import NumericsError
from tritium.evidence.recorder import RecordedRun, Recorder, recorder
from tritium.evidence.trace import ids_hash, trace_leaves, trace_root

if TYPE_CHECKING:
    from tritium.engine.model import Model


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run, with the multiply-accumulates of each kernel; ``failure`` says why there is nothing."""

    root: str | None = None
    output_sha256: str | None = None
    logits_sha256: str | None = None
    macs: tuple[tuple[str, int], ...] = ()
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Knockout:
    """What a run without one kernel came to, and what differs from the whole model's."""

    kernel: str
    outcome: Outcome
    changed: tuple[str, ...]


def knock_out(model: Model, prompt: Sequence[int], n_tokens: int) -> tuple[Outcome, list[Knockout]]:
    """Run the whole model, then without each kernel that took part; at the end the whole one again.

    ``model`` must not reuse prefixes. Errors: NumericsError if the whole model does not come to the same twice, or gives no
    trace; UnsupportedError for a back end whose kernels cannot be taken away.
    """
    whole = _run(model, prompt, n_tokens)
    if whole.root is None:
        raise NumericsError("knock-out", expected="a run with a trace", got=whole.failure or "none")
    rows = []
    executor = model.engine.executor
    for kernel in dict(whole.macs):
        executor.knock_out(kernel)
        try:
            outcome = _run(model, prompt, n_tokens)
        finally:
            executor.knock_out(None)
        names = ("root", "output_sha256", "logits_sha256")
        changed = [name for name in names if getattr(outcome, name) != getattr(whole, name)]
        before, after = dict(whole.macs), dict(outcome.macs)
        if {**before, kernel: 0} != {**after, kernel: 0}:
            changed.append("work")
        elif before[kernel] != after.get(kernel, 0):
            changed.append("own_work")
        rows.append(Knockout(kernel, outcome, tuple(changed)))
    again = _run(model, prompt, n_tokens)
    if again != whole:
        raise NumericsError("knock-out", where="the whole model", expected=whole.root, got=again.root)
    return whole, rows


def _run(model: Model, prompt: Sequence[int], n_tokens: int) -> Outcome:
    """A greedy run. Its trace bears a fixed number, so that equal runs have equal roots."""
    watch: Recorder = recorder(model)
    watch.run_id = bytes(16)
    params = SamplingParams(max_tokens=n_tokens, ignore_eos=True)
    engine = model.engine
    generation = engine.submit([prompt], params, measure=True, observers=[watch])[0]
    try:
        result = engine.run([generation])[0]
    except NumericsError as error:
        return Outcome(failure=str(error))
    ids = (*result.prompt_ids, *result.token_ids)
    leaves = trace_leaves(bytes(16), None, ids, result.n_cached, result.prompt_tokens, watch.columns, watch.hidden)
    root = trace_root(leaves).hex() if leaves else None
    macs: dict[str, int] = {}
    for count in RecordedRun([watch]).counts().counts:
        macs[count.kernel] = macs.get(count.kernel, 0) + count.macs
    return Outcome(root, ids_hash(result.token_ids), result.logits_sha256, tuple(macs.items()))
