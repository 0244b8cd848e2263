"""One prompt on its way through the engine, and what comes of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter_ns
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tritium.engine.observer import Observer
from tritium.engine.sampling import Sampler, TokenLogprob
from tritium.engine.scheduler import Sequence
from tritium.engine.stop_strings import StopStrings
from tritium.engine.tokenizer import StreamDetokenizer, Tokenizer

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What one prompt brought forth.

    ``token_ids`` holds every chosen token, the one that ended it included; ``text`` leaves out special tokens and a stop
    string with what follows it. ``finish_reason`` is "stop", "length" or "cancelled", ``finish_detail`` says what exactly
    ended it. ``logprobs``: one entry a token, if asked for. ``token_ns``: nanoseconds from the submission, which was at
    ``start_ns`` of ``time.perf_counter_ns``, to the first token, then from token to token. ``n_cached``: tokens of the prompt
    that were in the cache already.

    With ``measure``: ``logits_sha256``, of the last forwarded position's logits as little-endian float32 by id, and
    ``decode_bytes``, the weight and cache bytes that the executor counted after the first token; else None.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    finish_detail: str
    prompt_ids: tuple[int, ...]
    n_cached: int
    start_ns: int
    token_ns: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    logits_sha256: str | None = None
    decode_bytes: int | None = None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt_ids)

    @property
    def decode_ns(self) -> int:
        """Nanoseconds from the first token to the last."""
        return sum(self.token_ns[1:])


class Generation(Sequence):
    """One prompt on its way through the engine: a scheduled sequence with its text and its end."""

    __slots__ = (
        "_detokenizer", "_end_ids", "_finish", "_logprobs", "_stamps", "_stops", "_tokenizer", "bytes_at_first", "cancel",
        "decode_bytes", "error", "is_ended", "logits_sha256", "measure", "observer", "params", "pieces",
    )  # fmt: skip

    def __init__(
        self, prompt: NDArray[np.int32], capacity: int, sampler: Sampler, tokenizer: Tokenizer, *,
        twin: Generation | None = None, cancel: threading.Event | None = None, measure: bool = False,
        continuation: bool = True, observer: Observer | None = None,
    ) -> None:  # fmt: skip
        super().__init__(prompt, capacity, sampler, twin)
        self.params = sampler.params
        self.measure, self.observer = measure, observer
        self.cancel = threading.Event() if cancel is None else cancel
        self.error: Exception | None = None
        self.is_ended = False
        self.pieces: list[str] = []
        self._finish: tuple[FinishReason, str] | None = None
        self._tokenizer = tokenizer
        self._detokenizer = StreamDetokenizer(tokenizer, skip_special_tokens=True, continuation=continuation)
        self._stops = StopStrings(self.params.stop) if self.params.stop else None
        self._end_ids = frozenset(self.params.stop_ids).union(() if self.params.ignore_eos else tokenizer.stop_ids)
        self._logprobs: list[TokenLogprob] = []
        self._stamps = [perf_counter_ns()]
        if observer is not None:
            observer.begin(self._stamps[0])
        self.bytes_at_first = 0
        self.decode_bytes: int | None = None
        self.logits_sha256: str | None = None

    @property
    def n_generated(self) -> int:
        """Tokens chosen so far."""
        return self.n_tokens - self.n_prompt

    def accept(self, token: int, logprob: TokenLogprob | None) -> None:
        """Take the next token: its text, and whether it is the last."""
        self.token_view[self.n_tokens] = token
        self.n_tokens += 1
        self._stamps.append(perf_counter_ns())
        if logprob is not None:
            self._logprobs.append(logprob)
        if token in self._end_ids:
            if token in self._tokenizer.stop_ids and not self.params.ignore_eos:
                return self.end("stop", f"end token {token} {self._tokenizer.token_text(token)!r}")
            return self.end("stop", f"stop id {token}")
        piece = self._detokenizer.push(token)
        stops = self._stops
        if stops is not None:
            piece = stops.push(piece)
        if piece:
            self.pieces.append(piece)
        if stops is not None and stops.found is not None:
            return self.end("stop", f"stop string {stops.found!r}")
        if self.n_tokens == self.capacity:
            is_budget = self.n_generated == self.params.max_tokens
            self.end("length", f"max_tokens {self.n_generated}" if is_budget else f"context of {self.capacity} is full")
        return None

    def end(self, reason: FinishReason, detail: str) -> None:
        """Finish, and let go of text that was held back."""
        self._finish = reason, detail
        self.is_ended = True
        rest = self._detokenizer.flush()
        if self._stops is not None:
            rest = self._stops.flush(rest)
        if rest:
            self.pieces.append(rest)

    def result(self) -> GenerationResult:
        """Errors: what went wrong while it ran."""
        if self.error is not None:
            raise self.error
        reason, detail = self._finish or ("cancelled", "not finished")
        return GenerationResult(
            text="".join(self.pieces),
            token_ids=tuple(self.tokens[self.n_prompt : self.n_tokens].tolist()),
            finish_reason=reason,
            finish_detail=detail,
            prompt_ids=tuple(self.tokens[: self.n_prompt].tolist()),
            n_cached=self.n_cached,
            start_ns=self._stamps[0],
            token_ns=tuple(after - before for before, after in pairwise(self._stamps)),
            logprobs=None if self.params.logprobs is None else tuple(self._logprobs),
            logits_sha256=self.logits_sha256,
            decode_bytes=self.decode_bytes,
        )
