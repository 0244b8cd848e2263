"""The Python API on the demo model: what the documentation promises."""

from __future__ import annotations

import re
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tritium
from tiny_models import TINY, metadata, tensors, write_tiny
from tritium.engine.kv import block_bytes
from tritium.engine.model import resolve_model
from tritium.errors import FormatError, ShapeError, UnsupportedError
from tritium.formats.gguf_writer import GGUFWriter
from tritium.types import ModelConfig


@pytest.fixture(scope="module")
def model() -> Iterator[tritium.Model]:
    with tritium.load("demo", threads=2) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "m.gguf", "relu2_gqa_tied_chat")


def test_a_model_says_what_it_is(model: tritium.Model) -> None:
    assert isinstance(model.config, ModelConfig)
    assert isinstance(model.tokenizer, tritium.Tokenizer)
    assert model.path == resolve_model("demo")
    assert (model.plan.graph_hash, model.plan.hash) == (model.graph_hash, model.plan_hash)
    assert len(model.graph_hash) == len(model.plan_hash) == 64
    assert model.n_threads == 2
    assert model.max_context == model.config.max_context


def test_generate_stream_and_chat_agree(model: tritium.Model) -> None:
    result = model.generate("ROMEO:", max_tokens=30)
    assert isinstance(result, tritium.GenerationResult)
    assert len(result.token_ids) == 30
    stream = model.stream("ROMEO:", tritium.SamplingParams(max_tokens=30))
    assert "".join(stream) == result.text == stream.result.text
    assert model.detokenize(result.token_ids) == result.text
    assert model.generate(model.tokenize("ROMEO:"), max_tokens=30).token_ids == result.token_ids
    both = model.generate(["ROMEO:", "JULIET:"], max_tokens=30)
    assert both[0].token_ids == result.token_ids
    assert both[1].token_ids == model.generate("JULIET:", max_tokens=30).token_ids
    assert model.generate([model.tokenize("ROMEO:")], max_tokens=30)[0].token_ids == result.token_ids


def test_the_demo_writes_verse(model: tritium.Model) -> None:
    text = model.generate("ROMEO:\n", max_tokens=400, temperature=0.7, top_p=0.95, seed=1).text
    assert re.search(r"^[A-Z][A-Z ]+:$", text, re.MULTILINE)
    assert len(text.splitlines()) >= 10
    assert sum(word in text.split() for word in ("the", "and", "of", "my", "I", "to", "you", "not")) >= 6


def test_logits_are_all_of_them(model: tritium.Model) -> None:
    ids = model.tokenize("ROMEO: What light is this? " * 6)
    logits = model.logits(ids)
    assert (logits.shape, logits.dtype) == ((len(ids), model.config.vocab_size), np.float32)
    assert np.isfinite(logits).all()
    assert np.array_equal(model.logits(ids[:10]), logits[:10])
    assert model.generate(ids, max_tokens=1).token_ids == (int(np.argmax(logits[-1])),)


def test_back_ends_threads_and_chunks_agree_on_every_sampled_token(tiny: Path) -> None:
    settings: list[dict[str, object]] = [
        {"threads": 1},
        {"threads": 3, "chunk": 5},
        {"threads": 2, "prefix_cache": False, "chunk": 64},
        {"backend": "reference"},
    ]
    found = []
    for setting in settings:
        with tritium.load(tiny, **setting) as model:  # type: ignore[arg-type]
            results = model.generate(["The sea " * 20, "a"], max_tokens=12, temperature=0.9, top_p=0.9, measure=True)
            found.append([(result.token_ids, result.logits_sha256) for result in results])
    assert all(entry == found[0] for entry in found)


def test_special_text_is_text_unless_asked(model: tritium.Model) -> None:
    token = model.tokenizer.eos_id
    assert token is not None
    name = model.tokenizer.token_text(token)
    assert token not in model.tokenize(name, add_special_tokens=False)
    assert model.tokenize(name, add_special_tokens=False, parse_special=True) == [token]
    assert token not in model.generate(f"a{name}", max_tokens=1).prompt_ids
    assert token in model.generate(f"a{name}", max_tokens=1, parse_special=True).prompt_ids


def test_a_closed_model_says_so(tiny: Path) -> None:
    model = tritium.load(tiny)
    stream = model.stream("a", max_tokens=100)
    next(stream)
    model.close()
    model.close()
    assert stream.result.finish_reason == "cancelled"
    with pytest.raises(ShapeError, match="the model is closed"):
        model.generate("a")


def test_context_and_budget_size_the_cache(tiny: Path) -> None:
    with tritium.load(tiny) as model:
        size = block_bytes(model.config)
        assert (model.max_context, model.engine.executor.kv_blocks) == (320, 32 * 5)
    with tritium.load(tiny, kv_budget=2 * size + 5) as model:
        assert (model.max_context, model.engine.executor.kv_blocks) == (128, 2)
        results = model.generate(["in the sea " * 3] * 3, max_tokens=None, ignore_eos=True)
        assert [result.prompt_tokens + len(result.token_ids) for result in results] == [128] * 3
    with tritium.load(tiny, max_context=100) as model:
        assert model.plan.max_context == 100
    with pytest.raises(ShapeError, match=f"kv_budget: expected at least {size} bytes"):
        tritium.load(tiny, kv_budget=size - 1)
    with pytest.raises(ShapeError, match="for max_context 200"):
        tritium.load(tiny, kv_budget=size, max_context=200)
    with pytest.raises(ShapeError, match="max_context: expected 1 to 320"):
        tritium.load(tiny, max_context=321)
    with pytest.raises(ShapeError, match="chunk"):
        tritium.load(tiny, chunk=0)


def test_unknown_parameters_are_refused(model: tritium.Model) -> None:
    with pytest.raises(TypeError, match="top_q"):
        model.generate("a", top_q=1)
    with pytest.raises(ShapeError, match="both: max_tokens"):
        model.generate("a", tritium.SamplingParams(), max_tokens=2)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tritium.load(tmp_path / "missing.gguf")
    (tmp_path / "empty.gguf").write_bytes(b"")
    with pytest.raises(FormatError, match="file is empty"):
        tritium.load(tmp_path / "empty.gguf")
    with pytest.raises(UnsupportedError, match="unknown device"):
        tritium.load("demo", device="abacus")


@pytest.mark.parametrize("change", ["nan in the head", "short vocabulary", "no architecture", "code 3"])
def test_a_bad_file_is_named_with_its_path(change: str, tmp_path: Path) -> None:
    config = TINY["relu2_mha_tied"]
    keys, content = metadata(config), tensors(config, 1)
    if change == "nan in the head":
        content["token_embd.weight"][2][40:42] = (0, 0x7E)
    elif change == "code 3":
        content["blk.1.ffn_up.weight"][2][77] = 0xFF
    elif change == "no architecture":
        keys["general.architecture"] = "mystery"
    else:
        tokens = keys["tokenizer.ggml.tokens"]
        types = keys["tokenizer.ggml.token_type"]
        assert isinstance(tokens, list)
        assert isinstance(types, np.ndarray)
        keys["tokenizer.ggml.tokens"] = [*tokens, "extra"]
        keys["tokenizer.ggml.token_type"] = np.append(types, np.int32(1))
    with GGUFWriter(tmp_path / "m.gguf") as file:
        for key, value in keys.items():
            file.add(key, value)
        for name, (shape, layout, _) in content.items():
            file.declare(name, shape, layout)
        for name, (_, _, data) in content.items():
            file.write(name, data)
    for backend in ("cpu", "reference"):
        with pytest.raises((FormatError, UnsupportedError)) as caught:
            tritium.load(tmp_path / "m.gguf", backend=backend)
        assert str(caught.value).count(str(tmp_path / "m.gguf")) == 1
        assert caught.value.exit_code == 4


def test_cancelling_from_a_thread(model: tritium.Model) -> None:
    cancel = threading.Event()
    timer = threading.Timer(0.05, cancel.set)
    timer.start()
    result = model.generate("ROMEO:", max_tokens=None, ignore_eos=True, cancel=cancel)
    timer.join()
    assert result.finish_reason in ("cancelled", "length")
    assert result.finish_reason == "cancelled" or result.finish_detail.startswith("context")


def test_decoding_costs_python_little(model: tritium.Model) -> None:
    executor = model.engine.executor
    overheads = []
    for _ in range(5):
        executor.reset_trace()
        result = model.generate("ROMEO:", max_tokens=100, ignore_eos=True)
        overheads.append((sum(result.token_ns) - executor.trace().wall_ns) / len(result.token_ids))
    assert min(overheads) < 100_000


def test_decoding_allocates_nothing_that_stays(model: tritium.Model) -> None:
    model.generate("ROMEO:", max_tokens=5)
    tracemalloc.start()
    try:
        model.generate("JULIET:", max_tokens=100, ignore_eos=True)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(3):
            model.generate("JULIET:", max_tokens=100, ignore_eos=True)
        assert tracemalloc.get_traced_memory()[0] - before < 40_000
    finally:
        tracemalloc.stop()
