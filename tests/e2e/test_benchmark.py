"""The command benchmark, on the embedded model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import tritium
from tritium.bench.benchmark import Limits, benchmark, op_table, prompt_of, run
from tritium.engine.model import Model, load
from tritium.errors import ShapeError, UnsupportedError

PROBE_BYTES = 1 << 20


def opened(tokens: int = 24, **settings: str) -> Model:
    return load("demo", threads=2, max_context=tokens, prefix_cache=False, **settings)  # type: ignore[arg-type]


def test_the_document_and_the_text(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    size = ("--tokens", "8", "--prompt-tokens", "16", "--threads", "2")
    result = tritium("benchmark", "-m", "demo", *size, "--repeats", "3", "--output", output, "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document == json.loads(output.read_text(encoding="utf-8"))
    assert (document["prompt_tokens"], document["tokens"], document["threads"]) == (16, 8, 2)
    assert document["decode_s"]["n"] == len(document["limits"]) == 3
    assert document["decode_s"]["low"] <= document["decode_s"]["median"] <= document["decode_s"]["high"]
    assert sum(document["bytes_by_part"].values()) == pytest.approx(document["bytes_per_token"])
    assert document["memory"]["peak_bytes"] > 10_000_000
    text = tritium("benchmark", *size, "--repeats", "1").stdout
    for word in ("int8 peak", "% of the bandwidth", "p99", "ffn_down", "tok/s"):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--tokens", "1"), 2),
        (("--repeats", "0"), 2),
        (("--tokens", "100000"), 2),
        (("--threads", "0"), 2),
        (("-m", "absent.gguf"), 3),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: tuple[str, ...], code: int) -> None:
    result = tritium("benchmark", *arguments)
    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.startswith("tritium: ")


def test_a_back_end_without_limits_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="limits can be measured"):
        benchmark(lambda: opened(backend="reference"), prompt_tokens=4, tokens=2, repeats=1, probe_bytes=PROBE_BYTES)


def test_tokens_beyond_the_context_are_refused() -> None:
    with opened(tokens=12) as model, pytest.raises(ShapeError, match="tokens to generate"):
        run(model, prompt_of(model.config.vocab_size, 10), 5)


def test_a_prompt_from_the_cache_is_refused() -> None:
    with load("demo", threads=1, max_context=256) as model:
        prompt = prompt_of(model.config.vocab_size, 200)
        run(model, prompt, 2)
        with pytest.raises(UnsupportedError, match="in the cache"):
            run(model, prompt, 2)


def test_the_run_is_what_generate_returns_and_its_bytes_are_the_residents() -> None:
    with opened() as model:
        prompt = prompt_of(model.config.vocab_size, 16)
        once = run(model, prompt, 8)
        assert once.token_ids == model.generate(prompt, max_tokens=8, ignore_eos=True).token_ids
        assert len(once.token_ns) == once.decode.n_steps == 7
        assert once.prefill.n_tokens == 16
        rows = op_table(once.decode, model.plan, Limits(2, "none", 10.0, 10.0))
        linears = {step.label for step in model.plan.steps if step.op == "linear"}
        body = sum(row.bytes_per_token for row in rows if row.part == "body")
        panels = sum(r.nbytes for r in model.plan.residents if r.layout == "i2s")
        assert {row.op for row in rows if row.part == "body"} == linears
        assert body == pytest.approx(panels, rel=0.02)
        # Ten products a nanosecond and ten bytes: 2-bit weights are bound by the products, a float head by its bytes.
        for row in rows:
            if row.part in ("body", "head"):
                bound = row.macs_per_token / 10 if row.part == "body" else row.bytes_per_token / 10
                assert row.limit_percent == pytest.approx(bound / (10 * row.us_per_token), rel=1e-6)


def test_prompts_are_the_same_everywhere_and_in_range() -> None:
    assert prompt_of(1024, 4) == [(2654435761 * i) % 1024 for i in (1, 2, 3, 4)]
    assert prompt_of(1024, 4, seed=1) != prompt_of(1024, 4)
