"""Compute a recorded run once more, bit by bit: its tokens, its trace root, its last logits. Level E5."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tritium.engine.generation import Generation
from tritium.engine.kv import blocks_for
from tritium.engine.model import DEMO, load, resolve_model
from tritium.engine.sampling import Sampler, SamplingParams
from tritium.errors import NumericsError, ShapeError, TritiumError
from tritium.evidence.provenance import tokenizer_sha256
from tritium.evidence.tolerant import TOLERANT, is_foreign, tolerant_check
from tritium.evidence.trace import note_rows, sequences_of, trace_leaves, trace_root
from tritium.formats.gguf import open_gguf
from tritium.gates import Check, Policy, check, read_policy
from tritium.layouts import I2S_LAYOUTS
from tritium.ops import cache_of
from tritium.receipts import registry
from tritium.types import Batch

if TYPE_CHECKING:
    from tritium.engine.model import Model

LEVEL = "E5"
BACKENDS: dict[str, str] = {"native": "cpu", "reference": "reference"}
"""What can replay, by the name that it has on the command line."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What came out of each sequence: tokens as they were chosen, how they ended, the hash of the last logits; the trace root."""

    token_ids: tuple[tuple[int, ...], ...]
    finish_reasons: tuple[str, ...]
    root: str | None
    logits_sha256: tuple[str, ...]


def sampling_of(evidence: Mapping[str, Any]) -> SamplingParams:
    """The parameters that a receipt names. Errors: ShapeError for values that no run can have."""
    said = dict(evidence["sampling"])
    try:
        bias = dict(part.split("=", 1) for part in said.pop("logit_bias"))
        said["logit_bias"] = {int(token): float(value) for token, value in bias.items()}
        said["seed"] = int(said["seed"])
    except ValueError as error:
        raise ShapeError("sampling", expected="numbers", got=str(error)) from None
    run = evidence["run"]
    return SamplingParams(**said, max_tokens=run["max_tokens"], ignore_eos=run["ignore_eos"])


def find_model(sha256: str, path: Path | None) -> Path | None:
    """The model of this hash: the file at ``path``, or by default the one inside the package; None if that is another one.

    Errors: OSError, FormatError for a file that cannot be read.
    """
    place = resolve_model(DEMO if path is None else path)
    file = open_gguf(place)
    try:
        return place if file.sha256() == sha256 else None
    finally:
        file.close()


@contextmanager
def loaded(evidence: Mapping[str, Any], place: Path, backend: str, threads: int | None = None) -> Iterator[Model]:
    """The model at ``place`` as the run had it, with room for its longest sequence."""
    layouts = {tensor["layout"] for tensor in evidence["model"]["tensors"]}
    dialects = [dialect for dialect, layout in I2S_LAYOUTS.items() if layout in layouts]
    model = load(
        place,
        backend=BACKENDS[backend],
        threads=threads,
        max_context=max(len(s["prompt_ids"]) + len(s["token_ids"]) for s in sequences_of(evidence)),
        i2s_layout=dialects[0] if dialects else "128",
        kv=cache_of(entry.op for row in evidence["ledger"]["steps"] if (entry := registry.find(row["kernel"]))),
    )
    with model:
        yield model


@dataclass(frozen=True, slots=True)
class _Sequence:
    """One sequence's replay, with its hashes by position."""

    ids: tuple[int, ...]
    n_prompt: int
    finish_reason: str
    columns: Mapping[int, bytes]
    hidden: Mapping[int, bytes]
    logits_sha256: str


def replay(evidence: Mapping[str, Any], model: Model) -> Replay:
    """Forward the prompts and the recorded tokens, many at a time, and choose each token again from what comes out.

    The bits are the same whether tokens are forwarded one by one or together, and whether sequences are. Where a choice differs
    from the record, its sequence ends with the token that it chose. Errors: NumericsError; ShapeError.
    """
    found = [_replay(evidence, each, number, model) for number, each in enumerate(sequences_of(evidence))]
    return Replay(
        tuple(each.ids[each.n_prompt :] for each in found),
        tuple(each.finish_reason for each in found),
        _root(evidence, found),
        tuple(each.logits_sha256 for each in found),
    )


def _replay(evidence: Mapping[str, Any], said: Mapping[str, Any], number: int, model: Model) -> _Sequence:
    n_prompt = len(said["prompt_ids"])
    ids = np.array([*said["prompt_ids"], *said["token_ids"]], np.int32)
    if ids.max() >= model.config.vocab_size:
        raise ShapeError("token id", expected=f"below {model.config.vocab_size}", got=int(ids.max()))
    params = replace(sampling_of(evidence), max_tokens=said["max_tokens"])
    sampler = Sampler(params, model.config.vocab_size, ids[:n_prompt], number)
    told = Generation(ids[:n_prompt], min(n_prompt + said["max_tokens"], len(ids) + 1), sampler, model.tokenizer)
    columns: dict[int, bytes] = {}
    hidden: dict[int, bytes] = {}
    executor, plan = model.engine.executor, model.plan
    position = 0
    while position < len(ids) - 1 and not told.is_ended:
        chooses = position >= n_prompt - 1
        size = min(plan.max_tokens, plan.max_outputs) if chooses else plan.max_tokens
        end = min(position + size, len(ids) - 1 if chooses else n_prompt - 1)
        result = executor.step(_batch(ids, position, end, chooses, sampler.n_candidates), "hashes")
        if result.columns is not None:
            note_rows(columns, position, result.columns.tobytes())
        if chooses and result.hidden is not None:
            note_rows(hidden, position, result.hidden.tobytes())
        for row in range(end - position if chooses else 0):
            token, _ = sampler.choose(result, row, told.n_tokens)
            told.accept(token, None)
            if token != ids[told.n_tokens - 1] or told.is_ended:
                break
        position = end
        if told.n_tokens > n_prompt and told.tokens[told.n_tokens - 1] != ids[told.n_tokens - 1]:
            break
    outcome = told.result()
    all_ids = (*outcome.prompt_ids, *outcome.token_ids)
    return _Sequence(all_ids, n_prompt, outcome.finish_reason, columns, hidden, _last_logits(model, ids, position))


def _batch(ids: Any, start: int, end: int, chooses: bool, n_candidates: int) -> Batch:
    n = end - start
    return Batch(
        tokens=np.ascontiguousarray(ids[start:end]),
        positions=np.arange(start, end, dtype=np.int32),
        slots=np.zeros(n, np.int32),
        block_tables=np.arange(blocks_for(len(ids)), dtype=np.int32).reshape(1, -1),
        outputs=np.arange(n if chooses else 0, dtype=np.int32),
        top_k=n_candidates if chooses else 1,
    )


def _root(evidence: Mapping[str, Any], found: Sequence[_Sequence]) -> str | None:
    """The trace root of what was forwarded, under the record's run and nonce; None where the record has none."""
    trace = evidence["trace"]
    if trace is None:
        return None
    run, leaves = bytes.fromhex(trace["run"]), []
    for said, one in zip(sequences_of(evidence), found, strict=True):
        made = trace_leaves(run, trace["nonce"], one.ids, said["n_cached"], one.n_prompt, one.columns, one.hidden)
        if made is None:
            return None
        leaves += made
    return trace_root(leaves).hex() if leaves else None


def _last_logits(model: Model, ids: Any, end: int) -> str:
    """Forward the last position once more, for all its logits."""
    logits = model.engine.executor.step(_batch(ids, end - 1, end, True, 0)).logits
    assert logits is not None
    return hashlib.sha256(logits[0].astype("<f4").tobytes()).hexdigest()


def replay_checks(
    receipt: Mapping[str, Any], path: Path | None, backend: str = "native", policy: Policy | None = None
) -> list[Check]:
    """Replay a receipt that follows the schema with the model at ``path``, found by its hash, and compare.
    A run by another numeric profile is followed instead, by the thresholds of ``policy``. No path in the receipt is opened.

    Errors: OSError; FormatError for a model file that cannot be read.
    """
    evidence = receipt.get("evidence")
    if evidence is None:
        return [
            check("replay_model", LEVEL, None, "no evidence", hint="A bare receipt says too little to run it again")
        ]
    wanted = evidence["model"]["sha256"]
    place = find_model(wanted, path)
    if place is None:
        hint = "Give the model of this hash: --model PATH" if path is None else "This is another model"
        return [check("replay_model", LEVEL, None, "another model" if path else "not the embedded model", wanted, hint)]
    checks = [check("replay_model", LEVEL, True, wanted)]
    name = TOLERANT if is_foreign(evidence) else "replay_ids"
    start = time.perf_counter()
    try:
        with loaded(evidence, place, backend) as model:
            if name == TOLERANT:
                params = sampling_of(evidence)
                followed = tolerant_check(evidence, params, model, policy or read_policy(), backend)
                return [*checks, _tokenizer_check(evidence, model), followed]
            graph = evidence["plan"]["graph_hash"]
            hint = "The run meant another computation"
            checks.append(check("replay_graph", LEVEL, model.graph_hash == graph, graph, model.graph_hash, hint))
            checks.append(_tokenizer_check(evidence, model))
            found = replay(evidence, model)
            kernels = {choice.kernel for step in model.plan.steps for choice in step.choices}
    except (NumericsError, ShapeError) as error:
        return [*checks, check(name, LEVEL, False, hint=f"It cannot have run: {error}")]
    except TritiumError as error:
        return [*checks, check(name, LEVEL, None, hint=f"It does not run here: {error}")]
    letter = "b" if set(receipt["kernels"]) <= kernels else "c"
    return checks + _compare(evidence, found, f"E5{letter}", f"{backend}, {time.perf_counter() - start:.1f} s")


def _tokenizer_check(evidence: Mapping[str, Any], model: Model) -> Check:
    """The tokenizer and its end tokens."""
    said = evidence["model"]["tokenizer_sha256"], sorted(evidence["run"]["end_ids"])
    found = tokenizer_sha256(model.file), sorted(model.tokenizer.stop_ids)
    hint = "Texts, or ends of texts, of another tokenizer"
    return check("replay_tokenizer", LEVEL, said == found, str(said), str(found), hint)


def _compare(evidence: Mapping[str, Any], found: Replay, level: str, how: str) -> list[Check]:
    said, trace = sequences_of(evidence), evidence["trace"]
    pairs = [(tuple(s["token_ids"]), ids) for s, ids in zip(said, found.token_ids, strict=True)]
    n_same = [_n_equal(*pair) for pair in pairs]
    n = sum(len(ids) for ids, _ in pairs)
    ends = [s["finish_reason"] for s in said]
    same = all(ids == again for ids, again in pairs) and tuple(ends) == found.finish_reasons
    told = f"{level}: {sum(n_same)}/{n} ids and trace root equal (replayed, {how})"
    told = (
        told
        if len(said) == 1
        else f"{level}: {sum(n_same)}/{n} ids of {len(said)} sequences and trace root equal (replayed, {how})"
    )
    if not same:
        told = f"{sum(n_same)}/{n} ids, {' '.join(sorted(set(found.finish_reasons)))}"
    at = next((i for i, (ids, again) in enumerate(pairs) if ids != again), 0)
    where = f"token {n_same[at]}" + (f" of sequence {at}" if len(said) > 1 else "")
    hint = f"The replay parts from the record at {where}: other tokens were told than were chosen"
    checks = [check("replay_ids", LEVEL, same, told, f"{n} ids, {' '.join(sorted(set(ends)))}", hint)]
    if trace is None:
        checks.append(check("replay_trace", LEVEL, None, None, None, "The run left no trace to compare"))
    elif same:
        hint = "Another computation came to these tokens"
        checks.append(check("replay_trace", LEVEL, found.root == trace["root"], trace["root"], found.root, hint))
    logits = [s["logits_sha256"] for s in said]
    wrong = [(a, b) for a, b in zip(logits, found.logits_sha256, strict=True) if a not in (None, b)]
    if same and any(logits):
        hint = "The last logits are not those of this model and text"
        first = wrong[0] if wrong else (logits[0], found.logits_sha256[0])
        checks.append(check("replay_logits", LEVEL, not wrong, *first, hint))
    return checks


def _n_equal(ids: Sequence[int], again: Sequence[int]) -> int:
    """Tokens up to the first that differs."""
    return next((i for i, (a, b) in enumerate(zip(ids, again, strict=False)) if a != b), min(len(ids), len(again)))
