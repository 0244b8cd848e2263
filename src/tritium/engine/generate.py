"""Generate text: the loop schedule → step → choose, and what it returns."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tritium.engine.kv import KVCache
from tritium.engine.observer import Observer, observe
from tritium.engine.sampling import Sampler, SamplingParams, TokenLogprob
from tritium.engine.scheduler import Scheduler, Work
from tritium.engine.scheduler import Sequence as Scheduled
from tritium.engine.stop_strings import StopStrings
from tritium.engine.tokenizer import StreamDetokenizer, Tokenizer
from tritium.errors import ShapeError, TritiumError
from tritium.executor import Executor, single_sequence
from tritium.numerics import F32
from tritium.types import Pass, Trace

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


class Generation(Scheduled):
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
        self._stamps = [time.perf_counter_ns()]
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
        self._stamps.append(time.perf_counter_ns())
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


class Stream(Iterator[str]):
    """Pieces of text as they become certain; iterate, then read ``result``.

    ``close`` (or leaving its ``with`` block, or dropping it) ends the generation early; ``cancel`` does so from another thread or
    a signal handler, and the iteration then ends with the text that was held back.
    """

    def __init__(self, engine: Engine, generation: Generation) -> None:
        self._engine, self._generation = engine, generation
        self._n_read = 0

    def __next__(self) -> str:
        generation = self._generation
        while self._n_read == len(generation.pieces):
            if generation.is_ended:
                if generation.error is not None:
                    raise generation.error
                raise StopIteration
            self._engine.step()
        self._n_read += 1
        return generation.pieces[self._n_read - 1]

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # The event may be the caller's, and by now that of another generation.
        if not self._generation.is_ended:
            self._generation.cancel.set()

    def cancel(self) -> None:
        """End the generation at the next token."""
        self._generation.cancel.set()

    def close(self) -> None:
        """End the generation now, if it has not ended."""
        self._generation.cancel.set()
        self._engine.drop_cancelled()

    @property
    def result(self) -> GenerationResult:
        """What has been generated; complete once the iteration has ended. Errors: what went wrong while it ran."""
        return self._generation.result()


class Engine:
    """Runs any number of generations on one executor, all of them a token further with each step. Safe to share by threads.

    ``max_context`` bounds prompt and output together. ``watch`` is told of every step; reading the counters for it takes time
    between the steps. The rest is the scheduler's.
    """

    def __init__(
        self,
        executor: Executor,
        tokenizer: Tokenizer,
        *,
        max_context: int,
        chunk: int | None = None,
        reuse: bool = True,
    ) -> None:
        plan = executor.plan
        self.executor, self.tokenizer, self.max_context = executor, tokenizer, max_context
        n_running = min(plan.max_outputs, plan.max_tokens)
        self._cache = KVCache(executor.kv_blocks, n_running + 1, max_context, executor.copy_block, reuse=reuse)
        self._scheduler: Scheduler[Generation] = Scheduler(
            self._cache, max_tokens=plan.max_tokens, max_running=n_running, chunk=chunk
        )
        self.watch: Callable[[Pass], None] | None = None
        self._aside: Trace | None = None
        self._lock = threading.RLock()

    def submit(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *,
        cancel: threading.Event | None = None, measure: bool = False, continuation: bool = True,
        observers: Sequence[Observer | None] = (),
    ) -> list[Generation]:  # fmt: skip
        """Queue prompts; equal ones are forwarded once. Without ``continuation`` the text begins anew, as an answer does.
        ``observers``, if any, are one a prompt.

        Errors: ShapeError for an empty prompt, a token id out of range, a prompt that leaves no room in the context.
        """
        made: list[Generation] = []
        twins: dict[bytes, Generation] = {}
        for number, ids in enumerate(prompts):
            prompt = self._check_prompt(ids)
            room = self.max_context - len(prompt)
            capacity = len(prompt) + (room if params.max_tokens is None else min(room, params.max_tokens))
            sampler = Sampler(params, self.executor.plan.vocab_size, prompt, number, self.executor.weigh)
            key = prompt.tobytes()
            generation = Generation(
                prompt, capacity, sampler, self.tokenizer,
                twin=twins.get(key), cancel=cancel, measure=measure, continuation=continuation,
                observer=observers[number] if observers else None,
            )  # fmt: skip
            made.append(generation)
            twins.setdefault(key, generation)
        with self._lock:
            for generation in made:
                self._scheduler.add(generation)
        return made

    def run(self, generations: Sequence[Generation]) -> list[GenerationResult]:
        """Step until all of these have ended. An exception cancels those that have not."""
        try:
            for generation in generations:
                while not generation.is_ended:
                    self.step()
        except BaseException:
            for generation in generations:
                generation.cancel.set()
            self.drop_cancelled()
            raise
        return [generation.result() for generation in generations]

    def step(self) -> bool:
        """Run one step of everything that is queued; False if nothing is.

        A generation that fails keeps its error; an error that is none of the numbers' or the caller's is raised here as well.
        """
        with self._lock:
            scheduler = self._scheduler
            for queue in (scheduler.running, scheduler.waiting):
                for generation in queue:
                    if generation.cancel.is_set():
                        self.drop_cancelled()
                        break
            before = None if self.watch is None else self.executor.trace()
            begun = time.perf_counter_ns()
            work = scheduler.schedule()
            if work is None:
                return False
            is_observed = is_traced = False
            for generation, _ in work.parts:
                if generation.observer is not None:
                    is_observed, is_traced = True, is_traced or generation.observer.is_traced
            start = time.perf_counter_ns()
            try:
                result = self.executor.step(work.batch, "hashes" if is_traced else "off")
            except Exception as error:
                for generation, _ in work.parts:
                    self._fail(generation, error)
                if isinstance(error, TritiumError):
                    return True
                raise
            end = resumed = time.perf_counter_ns()
            if is_observed:
                observe(work.parts, work.outputs, result, start, end)
            counted = None
            if before is not None:
                counted, resumed = self.executor.trace().since(before), time.perf_counter_ns()
            scheduler.commit(work)
            is_settled = True
            for row, generation in work.outputs:
                try:
                    token, logprob = generation.sampler.choose(result, row, generation.n_tokens)
                except TritiumError as error:
                    self._fail(generation, error)
                    continue
                generation.accept(token, logprob)
                if generation.is_ended or generation.measure:
                    is_settled = False
            if self.watch is not None and counted is not None:
                rest_ns = start - begun + time.perf_counter_ns() - resumed
                self.watch(Pass(len(work.batch.tokens), len(work.batch.outputs), end - start, rest_ns, counted))
            if not is_settled:
                self._settle(work)
            return True

    def drop_cancelled(self) -> None:
        """End the generations whose ``cancel`` is set."""
        with self._lock:
            for queue in (self._scheduler.running, self._scheduler.waiting):
                for generation in [g for g in queue if g.cancel.is_set()]:
                    generation.end("cancelled", f"cancelled after {generation.n_generated} tokens")
                    if generation.observer is not None:
                        generation.observer.end(self.counted())
                    self._retire(generation)

    def logits(self, ids: Sequence[int]) -> F32:
        """Logits after each of the tokens. Shapes: (T,) ids → (T, vocab_size) f32. Errors: as ``submit``."""
        prompt = self._check_prompt(ids, room=0)
        plan = self.executor.plan
        out = np.empty((len(prompt), plan.vocab_size), np.float32)
        with self._lock:
            # Only the first token is shown to the prefix index: every position has to be forwarded.
            while (opened := self._cache.open(prompt[:1], len(prompt))) is None:
                self.step()
            table, _ = opened
            try:
                row = self._cache.tables[table.slot]
                size = min(plan.max_outputs, plan.max_tokens)
                for start in range(0, len(prompt), size):
                    batch = single_sequence(prompt[start : start + size], start, row, all_outputs=True)
                    out[start : start + size] = self.executor.step(batch).logits
            finally:
                self._cache.close(table)
        return out

    def close(self) -> None:
        """End all generations and release the executor."""
        with self._lock:
            for generation in [*self._scheduler.running, *self._scheduler.waiting]:
                generation.cancel.set()
            self.drop_cancelled()
            self.executor.close()

    def _check_prompt(self, ids: Sequence[int], room: int = 1) -> NDArray[np.int32]:
        wide = np.asarray(ids, np.int64).reshape(-1) if len(ids) else np.zeros(0, np.int64)
        if not len(wide):
            raise ShapeError("prompt", expected="at least one token", got="none")
        vocab_size = self.executor.plan.vocab_size
        if wide.min() < 0 or wide.max() >= vocab_size:
            bad = wide[(wide < 0) | (wide >= vocab_size)][0]
            raise ShapeError("token id out of range", expected=f"0 to {vocab_size - 1}", got=int(bad))
        if len(wide) > self.max_context - room:
            raise ShapeError(
                "prompt does not fit the context",
                expected=f"at most {self.max_context - room} tokens",
                got=len(wide),
                hint="Shorten it, or load with a larger max_context if the model has one",
            )
        return wide.astype(np.int32)

    def _settle(self, work: Work[Generation]) -> None:
        """After a step: what is measured at a first token, and the end of what has ended."""
        for _, generation in work.outputs:
            if generation.measure and generation.n_generated == 1:
                generation.bytes_at_first = self._counted_bytes()
        ended = [g for _, g in work.outputs if g.is_ended and not g.is_finished]
        for generation in ended:
            if generation.observer is not None:
                generation.observer.end(self.counted())
        for generation in ended:
            self._retire(generation)

    def counted(self) -> Trace:
        """What the executor has counted, without the steps that only measure what a generation came to."""
        trace = self.executor.trace()
        return trace if self._aside is None else trace.since(self._aside)

    def _retire(self, generation: Generation) -> None:
        if generation.measure and generation.n_generated and generation.error is None:
            generation.decode_bytes = self._counted_bytes() - generation.bytes_at_first
            generation.logits_sha256 = self._hash_last_logits(generation)
        self._scheduler.remove(generation)

    def _fail(self, generation: Generation, error: Exception) -> None:
        generation.error, generation.is_ended = error, True
        self._scheduler.remove(generation)

    def _counted_bytes(self) -> int:
        return self.counted().n_bytes

    def _hash_last_logits(self, generation: Generation) -> str | None:
        """Forward the last position once more, for all its logits; its keys and values come out as they are."""
        if generation.table is None:
            return None
        last = generation.n_computed - 1
        row = self._cache.tables[generation.table.slot]
        batch = single_sequence(generation.tokens[last : last + 1], last, row, all_outputs=True)
        counted = self.counted()
        logits = self.executor.step(batch).logits
        self._aside = self.executor.trace().since(counted)
        return None if logits is None else hashlib.sha256(logits[0].astype("<f4").tobytes()).hexdigest()
