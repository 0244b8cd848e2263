"""Compute a recorded run once more, bit by bit: its tokens, its trace root, its last logits. Level E5."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tritium.engine.generate import Generation
from tritium.engine.kv import blocks_for
from tritium.engine.model import DEMO, load, resolve_model
from tritium.engine.sampling import Sampler, SamplingParams
from tritium.errors import NumericsError, ShapeError, TritiumError
from tritium.evidence.provenance import tokenizer_sha256
from tritium.evidence.tolerant import TOLERANT, is_foreign, tolerant_check
from tritium.evidence.trace import note_rows, trace_leaves, trace_root
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
    """What came out: the tokens that were chosen, how they ended, the trace root, the hash of the last logits."""

    token_ids: tuple[int, ...]
    finish_reason: str
    root: str | None
    logits_sha256: str


def sampling_of(evidence: Mapping[str, Any]) -> SamplingParams:
    """The parameters that a receipt names. Errors: ShapeError for values that no run can have."""
    said = dict(evidence["sampling"])
    said.pop("sequence", None)
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
    """The model at ``place`` as the run had it, with room for the run."""
    run = evidence["run"]
    layouts = {tensor["layout"] for tensor in evidence["model"]["tensors"]}
    dialects = [dialect for dialect, layout in I2S_LAYOUTS.items() if layout in layouts]
    model = load(
        place,
        backend=BACKENDS[backend],
        threads=threads,
        max_context=len(run["prompt_ids"]) + len(run["token_ids"]),
        i2s_layout=dialects[0] if dialects else "128",
        kv=cache_of(entry.op for row in evidence["ledger"]["steps"] if (entry := registry.find(row["kernel"]))),
    )
    with model:
        yield model


def replay(evidence: Mapping[str, Any], model: Model) -> Replay:
    """Forward the prompt and the recorded tokens, many at a time, and choose each token again from what comes out.

    The bits are the same whether tokens are forwarded one by one or together. Where a choice differs from the record,
    the replay ends with the token that it chose. Errors: NumericsError; ShapeError.
    """
    run = evidence["run"]
    n_prompt = len(run["prompt_ids"])
    ids = np.array([*run["prompt_ids"], *run["token_ids"]], np.int32)
    if ids.max() >= model.config.vocab_size:
        raise ShapeError("token id", expected=f"below {model.config.vocab_size}", got=int(ids.max()))
    sampler = Sampler(
        sampling_of(evidence), model.config.vocab_size, ids[:n_prompt], evidence["sampling"].get("sequence", 0)
    )
    told = Generation(ids[:n_prompt], min(n_prompt + run["max_tokens"], len(ids) + 1), sampler, model.tokenizer)
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
    all_ids = [*outcome.prompt_ids, *outcome.token_ids]
    return Replay(
        outcome.token_ids, outcome.finish_reason, _root(evidence, all_ids, columns, hidden), _last_logits(model, ids, position)
    )  # fmt: skip


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


def _root(
    evidence: Mapping[str, Any], ids: list[int], columns: Mapping[int, bytes], hidden: Mapping[int, bytes]
) -> str | None:
    """The trace root of what was forwarded, under the record's run and nonce; None where the record has none."""
    said = evidence["trace"]
    if said is None:
        return None
    n_prompt = len(evidence["run"]["prompt_ids"])
    leaves = trace_leaves(bytes.fromhex(said["run"]), said["nonce"], ids, said["first"], n_prompt, columns, hidden)
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
    run, said = evidence["run"], evidence["trace"]
    ids = tuple(run["token_ids"])
    n_same = next(
        (i for i, pair in enumerate(zip(ids, found.token_ids, strict=False)) if pair[0] != pair[1]),
        len(found.token_ids),
    )
    same = found.token_ids == ids and found.finish_reason == run["finish_reason"]
    told = f"{level}: {n_same}/{len(ids)} ids and trace root equal (replayed, {how})"
    if not same:
        told = f"{n_same}/{len(ids)} ids, {found.finish_reason}"
    hint = f"The replay parts from the record at token {n_same}: other tokens were told than were chosen"
    checks = [check("replay_ids", LEVEL, same, told, f"{len(ids)} ids, {run['finish_reason']}", hint)]
    if said is None:
        checks.append(check("replay_trace", LEVEL, None, None, None, "The run left no trace to compare"))
    elif same:
        hint = "Another computation came to these tokens"
        checks.append(check("replay_trace", LEVEL, found.root == said["root"], said["root"], found.root, hint))
    logits = run["logits_sha256"]
    if same and logits is not None:
        hint = "The last logits are not those of this model and text"
        checks.append(check("replay_logits", LEVEL, found.logits_sha256 == logits, logits, found.logits_sha256, hint))
    return checks
