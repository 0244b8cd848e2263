"""The engine on a tiny model: how it ends, what it streams, and that no way of cutting the work shows in a result."""

from __future__ import annotations

import hashlib
import random
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tritium
from tiny_models import TINY, metadata, tensors, write_tiny
from tritium.engine.sampling import SamplingParams
from tritium.engine.stop_strings import StopStrings
from tritium.errors import NumericsError, ShapeError
from tritium.formats.gguf_writer import GGUFWriter
from tritium.layouts import LAYOUTS
from tritium.numerics import KV_BLOCK

NAME = "relu2_gqa_tied_chat"
EOS = 265
TEXTS = ["The heart is in the sea", "a", "in the house " * 12, "The heart is in the sea", "re" * 64]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "m.gguf", NAME)


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[tritium.Model]:
    with tritium.load(path) as loaded:
        yield loaded


def ids(results: list[tritium.GenerationResult]) -> list[tuple[int, ...]]:
    return [result.token_ids for result in results]


def test_generation_is_repeated_argmax_of_the_logits(model: tritium.Model) -> None:
    result = model.generate(TEXTS[0], max_tokens=6, measure=True)
    known = list(result.prompt_ids)
    assert known == model.tokenize(TEXTS[0])
    for token in result.token_ids:
        logits = model.logits(known)[-1]
        assert int(np.argmax(logits)) == token
        known.append(token)
    assert result.logits_sha256 == hashlib.sha256(logits.tobytes()).hexdigest()
    assert (result.finish_reason, result.finish_detail) == ("length", "max_tokens 6")
    assert result.prompt_tokens == len(result.prompt_ids)
    assert len(result.token_ns) == 6
    assert min(result.token_ns) > 0
    assert result.decode_ns == sum(result.token_ns[1:])


@pytest.mark.parametrize("fields", [{}, {"temperature": 1.0, "top_k": 30}, {"temperature": 1.2, "top_p": 0.9}], ids=str)
def test_chunks_mixes_and_shared_prefixes_do_not_show(path: Path, fields: dict[str, Any]) -> None:
    fields = {"max_tokens": 9, "seed": 3, **fields}
    seen = []
    for settings in (
        {},
        {"chunk": 1},
        {"chunk": 7, "prefix_cache": False},
        {"kv_budget": 9 * 20480, "max_context": 320},
    ):
        with tritium.load(path, **settings) as model:
            seen.append(model.generate(TEXTS, measure=True, **fields))
            again = model.generate(TEXTS, measure=True, **fields)
            assert ids(again) == ids(seen[-1])
    for results in seen[1:]:
        assert ids(results) == ids(seen[0])
        assert [r.logits_sha256 for r in results] == [r.logits_sha256 for r in seen[0]]
        assert [r.text for r in results] == [r.text for r in seen[0]]


def test_one_prompt_alone_and_among_others_gives_the_same(model: tritium.Model) -> None:
    together = model.generate(TEXTS, max_tokens=7)
    assert ids(together) == [model.generate(text, max_tokens=7).token_ids for text in TEXTS]
    streams = [model.stream(text, max_tokens=7) for text in TEXTS]
    pieces = ["" for _ in streams]
    alive = list(range(len(streams)))
    while alive:
        for n in list(alive):
            try:
                pieces[n] += next(streams[n])
            except StopIteration:
                alive.remove(n)
    assert [stream.result.token_ids for stream in streams] == ids(together)
    assert pieces == [result.text for result in together]


def test_equal_prompts_share_their_cache_and_draw_differently(model: tritium.Model) -> None:
    results = model.generate(["in the sea " * 9] * 4, max_tokens=8, temperature=1.5, seed=1)
    assert [result.n_cached > 0 for result in results] == [False, True, True, True]
    assert len({result.token_ids for result in results}) == 4


def test_a_prompt_seen_before_is_not_forwarded_again(model: tritium.Model) -> None:
    text = "heart " * 30
    assert model.generate(text, max_tokens=1).n_cached == 0
    assert model.generate(text + "sea", max_tokens=1).n_cached >= 64


@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_blocks_that_were_generated_are_not_forwarded_again(path: Path, chunk: int | None) -> None:
    with tritium.load(path, chunk=chunk) as model:
        first = model.generate("heart", max_tokens=3 * KV_BLOCK, ignore_eos=True)
        known = [*first.prompt_ids, *first.token_ids]
        assert model.generate(known, max_tokens=1).n_cached == (len(known) - 1) // KV_BLOCK * KV_BLOCK


def test_threads_may_share_a_model(model: tritium.Model) -> None:
    alone = [model.generate(text, max_tokens=8).token_ids for text in TEXTS]
    found: dict[int, tuple[int, ...]] = {}

    def work(n: int) -> None:
        found[n] = model.generate(TEXTS[n], max_tokens=8).token_ids

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(TEXTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(len(TEXTS))] == alone


def test_more_prompts_than_fit_at_a_time_are_all_answered(model: tritium.Model) -> None:
    prompts = [[n + 1, n + 2] for n in range(50)]
    results = model.generate(prompts, max_tokens=2)
    assert len(results) == 50
    assert results[49].token_ids == model.generate(prompts[49], max_tokens=2).token_ids


def test_end_tokens_end_and_carry_no_text(model: tritium.Model) -> None:
    forced = {"logit_bias": {EOS: 1000.0}, "max_tokens": 5}
    result = model.generate("a", **forced)
    assert (result.text, result.token_ids, result.finish_reason) == ("", (EOS,), "stop")
    assert result.finish_detail == f"end token {EOS} '<|end_of_text|>'"
    result = model.generate("a", ignore_eos=True, **forced)
    assert (result.text, result.token_ids, result.finish_reason) == ("", (EOS,) * 5, "length")


def test_stop_ids_end_with_their_token(model: tritium.Model) -> None:
    free = model.generate(TEXTS[0], max_tokens=12)
    last = free.token_ids[5]
    n = free.token_ids.index(last) + 1
    result = model.generate(TEXTS[0], max_tokens=12, stop_ids=[last])
    assert (result.token_ids, result.finish_detail) == (free.token_ids[:n], f"stop id {last}")


def test_a_stop_string_is_found_across_tokens_and_left_out(model: tritium.Model) -> None:
    free = model.generate(TEXTS[4], max_tokens=30, temperature=1.0, seed=5)
    readable = free.text
    start = next(n for n in range(4, len(readable) - 4) if "\ufffd" not in readable[n : n + 3])
    stop = readable[start : start + 3]
    expected = readable[: readable.index(stop)]
    for fields in ({"stop": stop}, {"stop": ["nowhere", stop, stop + "\x00"]}):
        stream = model.stream(TEXTS[4], max_tokens=30, temperature=1.0, seed=5, **fields)
        assert "".join(stream) == stream.result.text == expected
        assert (stream.result.finish_reason, stream.result.finish_detail) == ("stop", f"stop string {stop!r}")
        assert free.token_ids[: len(stream.result.token_ids)] == stream.result.token_ids


def test_stop_strings_do_not_depend_on_the_borders_of_pieces() -> None:
    source = random.Random(8)
    for _ in range(2000):
        text = "".join(source.choices("abc", k=source.randrange(1, 14)))
        stops = ["".join(source.choices("abc", k=source.randrange(1, 5))) for _ in range(source.randrange(1, 4))]
        cuts = sorted({0, len(text), *(source.randrange(len(text)) for _ in range(3))})
        outcomes = []
        for pieces in ([text], list(text), [text[a:b] for a, b in pairwise(cuts)]):
            cutter, shown, seen = StopStrings(stops), "", ""
            for piece in pieces:
                shown += cutter.push(piece)
                if cutter.found is not None:
                    break
                # Nothing shown can still become part of a stop string.
                seen += piece
                assert not any(stop.startswith(seen[n:]) for stop in stops for n in range(len(shown)))
            outcomes.append((shown + cutter.flush(), cutter.found))
        assert outcomes[0] == outcomes[1] == outcomes[2]
        shown, found = outcomes[0]
        assert text.startswith(shown + (found or ""))
        assert found in stops if any(stop in text for stop in stops) else (shown, found) == (text, None)


def test_text_that_only_looked_like_a_stop_comes_out_at_the_end(model: tritium.Model) -> None:
    free = model.generate(TEXTS[0], max_tokens=8)
    assert model.generate(TEXTS[0], max_tokens=8, stop=free.text[-1] + "never").text == free.text


def test_the_context_ends_a_generation_and_says_so(path: Path) -> None:
    with tritium.load(path, max_context=20) as model:
        result = model.generate([1] * 15, max_tokens=50, ignore_eos=True)
        assert (len(result.token_ids), result.finish_reason) == (5, "length")
        assert result.finish_detail == "context of 20 is full"
        assert len(model.generate([1] * 15, max_tokens=None, ignore_eos=True).token_ids) == 5
        assert model.generate([1] * 19, max_tokens=1).finish_detail == "max_tokens 1"
        assert model.logits([1] * 20).shape == (20, 267)
        for call in (lambda: model.generate([1] * 20), lambda: model.stream([1] * 21), lambda: model.logits([1] * 21)):
            with pytest.raises(ShapeError, match="prompt does not fit the context"):
                call()


@pytest.mark.parametrize(
    ("prompt", "message"), [([], "at least one token"), ([267], "0 to 266, got 267"), ([-1], "got -1")]
)
def test_prompts_that_are_none_are_refused(model: tritium.Model, prompt: list[int], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        model.generate(prompt)


def test_closing_a_stream_frees_its_cache(model: tritium.Model) -> None:
    idle = model.engine._cache.n_idle
    with model.stream(TEXTS[0], max_tokens=200) as stream:
        next(stream)
        assert model.engine._cache.n_idle < idle
    assert model.engine._cache.n_idle == idle
    assert stream.result.finish_reason == "cancelled"
    assert 1 <= len(stream.result.token_ids) < 200
    assert list(stream) == []


def test_a_dropped_stream_does_not_run_on(model: tritium.Model) -> None:
    next(model.stream(TEXTS[0], max_tokens=200))
    idle = model.engine._cache.n_blocks
    model.generate("a", max_tokens=1)
    assert model.engine._cache.n_idle == idle


def test_an_event_cancels_from_outside(model: tritium.Model) -> None:
    cancel = threading.Event()
    stream = model.stream(TEXTS[0], max_tokens=200, cancel=cancel)
    text = next(stream)
    cancel.set()
    assert text + "".join(stream) == stream.result.text
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.finish_detail == f"cancelled after {len(stream.result.token_ids)} tokens"
    assert [r.finish_reason for r in model.generate(["a", "b"], cancel=cancel)] == ["cancelled"] * 2


def test_logprobs_come_one_a_token(model: tritium.Model) -> None:
    plain = model.generate(TEXTS[0], max_tokens=5)
    result = model.generate(TEXTS[0], max_tokens=5, logprobs=3)
    assert plain.logprobs is None
    assert result.token_ids == plain.token_ids
    assert result.logprobs is not None
    assert [entry.token_id for entry in result.logprobs] == list(result.token_ids)
    assert all(entry.top[0] == (entry.token_id, entry.logprob) for entry in result.logprobs)
    assert all(len(entry.top) == 3 and entry.logprob < 0 for entry in result.logprobs)


def test_a_broken_model_fails_its_own_generation_and_frees_the_cache(tmp_path: Path) -> None:
    config = TINY[NAME]
    content = tensors(config, 1)
    shape, layout, data = content["blk.1.attn_v.weight"]
    trits, _ = LAYOUTS[layout].trits(data, shape)
    content["blk.1.attn_v.weight"] = shape, layout, LAYOUTS[layout].pack_trits(trits, np.array([1e30], np.float32))
    with GGUFWriter(tmp_path / "m.gguf") as file:
        for key, value in metadata(config).items():
            file.add(key, value)
        for tensor, (shape, layout, _) in content.items():
            file.declare(tensor, shape, layout)
        for tensor, (_, _, data) in content.items():
            file.write(tensor, data)
    with tritium.load(tmp_path / "m.gguf") as model:
        for _ in range(2):
            with pytest.raises(NumericsError):
                model.generate(["a", "b"])
            with pytest.raises(NumericsError):
                list(model.stream("a"))
        assert model.engine._cache.n_idle == model.engine._cache.n_blocks


@pytest.mark.parametrize("params", [{}, {"temperature": 1.0, "top_k": 8, "seed": 3}], ids=["greedy", "sampled"])
def test_a_token_costs_few_calls(model: tritium.Model, params: dict[str, Any]) -> None:
    """Weights evict everything from the caches between two tokens, so each call costs many times what a hot loop shows."""
    counts: list[list[str]] = []
    engine = model.engine
    with model.stream("The heart", SamplingParams(max_tokens=60, ignore_eos=True, **params)) as stream:
        next(stream)
        for _ in range(40):
            events: list[str] = []
            sys.setprofile(lambda _frame, event, _argument, events=events: events.append(event))
            try:
                engine.step()
            finally:
                sys.setprofile(None)
            counts.append(events)
    # Some tokens end inside a character or were never spelled before; the others show what a token has to cost.
    frames = min(events.count("call") for events in counts)
    calls = min(events.count("call") + events.count("c_call") for events in counts)
    assert frames <= 9
    assert calls <= 16


SPARSE = [(name, "on") for name in TINY if name.startswith("relu2")]


@pytest.mark.parametrize(("name", "sparsity"), [(name, "off") for name in TINY] + SPARSE)
def test_a_layer_of_a_token_has_few_barriers(tmp_path: Path, name: str, sparsity: str) -> None:
    with tritium.load(write_tiny(tmp_path / "m.gguf", name), threads=2, ffn_sparsity=sparsity) as loaded:
        program: Any = loaded.engine.executor._program
        loops = []
        for n in (2, 3):
            before = program._native.n_shared_loops
            loaded.generate("The heart is", max_tokens=n, ignore_eos=True)
            loops.append(program._native.n_shared_loops - before)
        head = 1
        assert 0 < loops[1] - loops[0] <= 5 * loaded.config.n_layers + head


def test_nobody_is_busy_while_nothing_is_asked(model: tritium.Model) -> None:
    model.generate("The heart", max_tokens=4)
    time.sleep(0.05)  # threads look for work for some milliseconds before they sleep
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.02
