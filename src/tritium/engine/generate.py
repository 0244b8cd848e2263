"""Generate text: the loop schedule → step → choose."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from tritium.engine.generation import Generation, GenerationResult
from tritium.engine.kv import KVCache
from tritium.engine.observer import Observer, observe
from tritium.engine.sampling import Sampler, SamplingParams
from tritium.engine.scheduler import Scheduler, Work
from tritium.engine.tokenizer import Tokenizer
from tritium.errors import ShapeError, TritiumError
from tritium.executor import Executor, single_sequence
from tritium.numerics import F32
from tritium.types import Pass, Trace


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
        self._forward = executor.forward  # what the scheduler packs is within the limits
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
        # ``with`` would look up and bind two methods of the lock: that is microseconds of a token.
        self._lock.acquire()
        try:
            scheduler, forward = self._scheduler, self._forward
            waiting = scheduler.waiting
            for generation in (*scheduler.running, *waiting) if waiting else scheduler.running:
                if generation.cancel.is_set():
                    self.drop_cancelled()
                    break
            watch = self.watch
            begun = start = end = resumed = 0
            if watch is not None:
                before, begun = self.executor.trace(), perf_counter_ns()
            work = scheduler.schedule()
            if work is None:
                return False
            is_observed = is_traced = False
            for generation, _ in work.parts:
                if generation.observer is not None:
                    is_observed, is_traced = True, is_traced or generation.observer.is_traced
            is_timed = is_observed or watch is not None
            if is_timed:
                start = perf_counter_ns()
            try:
                result = forward(work.batch, "hashes" if is_traced else "off")
            except Exception as error:
                for generation, _ in work.parts:
                    self._fail(generation, error)
                if isinstance(error, TritiumError):
                    return True
                raise
            if is_timed:
                end = perf_counter_ns()
            if is_observed:
                observe(work.parts, work.outputs, result, start, end)
            if watch is not None:
                counted, resumed = self.executor.trace().since(before), perf_counter_ns()
            for generation, n in work.parts:
                generation.n_computed += n
                if generation.n_computed >= generation.block_end:
                    scheduler.seal(generation)
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
            if watch is not None:
                rest_ns = start - begun + perf_counter_ns() - resumed
                watch(Pass(len(work.batch.tokens), len(work.batch.outputs), end - start, rest_ns, counted))
            if not is_settled:
                self._settle(work)
            return True
        finally:
            self._lock.release()

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
