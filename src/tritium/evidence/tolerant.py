"""Follow the tokens of an engine of another numeric profile: is each one the first choice here, or all but? Level E5d."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tritium.engine.generation import Generation
from tritium.engine.kv import blocks_for
from tritium.engine.sampling import Sampler, SamplingParams
from tritium.errors import ShapeError
from tritium.evidence.trace import sequences_of
from tritium.executor import single_sequence
from tritium.gates import Check, Policy, check
from tritium.profile import PROFILE_HASH

if TYPE_CHECKING:
    from tritium.engine.model import Model

LEVEL, TOLERANT = "E5", "replay_tolerant"
DEVIATIONS = 4
"""Of the difference of two logits' noise: one in thirty thousand lies beyond."""
ROWS = 64
"""Rows of full logits at a time: 33 MB of a vocabulary of 128 k."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How recorded tokens fare: ``gaps`` (n,) f32 is the best logit less the told token's, in standard deviations of the
    vocabulary's logits at that place, 0 where it is the first choice; ``n_followed`` tokens came up to the end that the text has
    by its own rules, and ``finish_reason`` is this end's."""

    gaps: NDArray[np.float32]
    n_followed: int
    finish_reason: str

    @property
    def n_equal(self) -> int:
        """Tokens that are the first choice."""
        return int((self.gaps == 0).sum())

    @property
    def widest(self) -> float:
        """The greatest gap, in standard deviations."""
        return float(self.gaps.max())


def is_foreign(evidence: Mapping[str, Any]) -> bool:
    """True for a run by another numeric profile than ours: it cannot come to the same bits."""
    return bool(evidence["plan"]["profile_hash"] != PROFILE_HASH)


def margin_of(noise: float) -> float:
    """How far below the best one a token may lie that another arithmetic takes for the best, in standard deviations.

    Arithmetic that is off by a share ``noise`` of a row's size puts logits off by that share of their spread σ, for logits are
    sums over the row. Of two such logits the difference is off by √2·noise·σ; a token is taken for the best only if that closes
    the gap. Rounding activations to int8 alone is noise of c/(127·√12) for rows whose largest value is c times their root mean
    square: 0.04 for c = 17.6.
    """
    return DEVIATIONS * math.sqrt(2) * noise


def gaps_of(logits: NDArray[np.float32], told: NDArray[np.int32]) -> NDArray[np.float32]:
    """The best logit less the told token's, over the spread of all. Shapes: (n, vocab_size) f32, (n,) i32 → (n,) f32."""
    below = logits.max(axis=1) - logits[np.arange(len(told)), told]
    spread = np.maximum(logits.std(axis=1), np.finfo(np.float32).tiny)
    gaps: NDArray[np.float32] = below / spread
    return gaps


def follow(said: Mapping[str, Any], params: SamplingParams, model: Model) -> Agreement:
    """Forward a prompt and its recorded tokens, whatever would be chosen here, and compare each with the best.

    Errors: NumericsError; ShapeError for ids beyond the vocabulary.
    """
    n_prompt = len(said["prompt_ids"])
    ids = np.array([*said["prompt_ids"], *said["token_ids"]], np.int32)
    if ids.max() >= model.config.vocab_size:
        raise ShapeError("token id", expected=f"below {model.config.vocab_size}", got=int(ids.max()))
    sampler = Sampler(params, model.config.vocab_size, ids[:n_prompt])
    told = Generation(ids[:n_prompt], min(n_prompt + said["max_tokens"], len(ids) + 1), sampler, model.tokenizer)
    gaps = []
    table = np.arange(blocks_for(len(ids)), dtype=np.int32)
    position, plan = 0, model.plan
    while position < len(ids) - 1:
        chooses = position >= n_prompt - 1
        size = min(plan.max_tokens, plan.max_outputs, ROWS) if chooses else plan.max_tokens
        end = min(position + size, len(ids) - 1 if chooses else n_prompt - 1)
        batch = single_sequence(ids[position:end], position, table, all_outputs=chooses)
        logits = model.engine.executor.step(batch).logits
        if chooses:
            assert logits is not None
            gaps.append(gaps_of(logits, ids[position + 1 : end + 1]))
        position = end
    for token in said["token_ids"]:
        if told.is_ended:
            break
        told.accept(int(token), None)
    outcome = told.result()
    return Agreement(np.concatenate(gaps), len(outcome.token_ids), outcome.finish_reason)


def tolerant_check(
    evidence: Mapping[str, Any], params: SamplingParams, model: Model, policy: Policy, how: str
) -> Check:
    """Refuse a token beyond the margin, or an end that is none; cap where too few are the first choice.

    Errors: those of ``follow``.
    """
    said = sequences_of(evidence)
    least, margin = policy.get("replay", "least_agreement"), margin_of(policy.get("replay", "noise"))
    ends = " ".join(sorted({s["finish_reason"] for s in said}))
    bound = f"{100 * least:g} % first choices, the others within {margin:.3g} deviations of them, {ends}"
    if params.temperature != 0 or params.has_penalties or params.logit_bias:
        hint = "Only greedy choices, without penalties and biases, can be followed in another arithmetic"
        return check(TOLERANT, LEVEL, None, "a sampled run of another profile", bound, hint)
    found = [follow(each, params, model) for each in said]
    for each, one in zip(said, found, strict=True):
        n = len(one.gaps)
        if (one.n_followed, one.finish_reason) != (n, each["finish_reason"]):
            came = f"{one.n_followed}/{n} ids, {one.finish_reason}"
            return check(TOLERANT, LEVEL, False, came, bound, "The text has another end by its own rules")
    n, n_equal, widest = sum(len(f.gaps) for f in found), sum(f.n_equal for f in found), max(f.widest for f in found)
    told = f"{n_equal}/{n} ids are the first choice, the others within {widest:.3g} deviations of it"
    for number, one in enumerate(found):
        if not one.widest <= margin:
            at = f"Token {int(np.argmin(one.gaps <= margin))}" + (f" of sequence {number}" if number else "")
            hint = f"{at} is no choice of this model after this text, in any arithmetic close to ours"
            return check(TOLERANT, LEVEL, False, told, bound, hint)
    if n_equal < least * n:
        return check(TOLERANT, LEVEL, None, told, bound, "Near ties, but too many of them; a longer run may decide")
    return check(TOLERANT, LEVEL, True, f"E5d: {told} (profile {evidence['plan']['profile']}, followed, {how})", bound)
