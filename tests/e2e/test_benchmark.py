"""The command benchmark, on the embedded model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from command_line import tritium
from tritium.bench.benchmark import Limits, Workload, benchmark, greedy, middle, open_timed, prompt_of, run
from tritium.bench.op_table import op_table, products_of
from tritium.engine.model import Model, load
from tritium.errors import ShapeError, UnsupportedError

PROBE_BYTES = 1 << 20


def opened(tokens: int = 24, **settings: str) -> Model:
    return load("demo", threads=2, max_context=tokens, prefix_cache=False, **settings)  # type: ignore[arg-type]


def test_the_receipt_stands_and_the_report_has_its_samples(tmp_path: Path) -> None:
    receipt, report = tmp_path / "ci" / "receipt.json", tmp_path / "report.json"
    size = ("--tokens", "8", "--prompt-tokens", "16", "--threads", "2", "--repeats", "3")
    result = tritium("benchmark", *size, "--output", receipt, "--report", report, "--json", "--no-output")
    assert result.returncode == 0, result.stderr
    written = json.loads(receipt.read_text(encoding="utf-8"))
    assert json.loads(result.stdout) == written
    assert (written["tokens_requested"], written["tokens_generated"], written["deterministic"]) == (8, 8, True)
    assert (written["compute_path"], written["backend"]) == ("real", "cpu")
    assert written["evidence"]["sampling"]["seed"] == "42"
    judged = tritium("verify-receipt", receipt, "--require", "kernels=E3,model=E3,output=E1,determinism=E1")
    assert judged.returncode == 0, judged.stdout
    document = json.loads(report.read_text(encoding="utf-8"))
    assert (document["prompt_tokens"], document["tokens"], document["threads"]) == (16, 8, 2)
    assert len(document["samples"]) == len(document["limits"]) == document["decode_s"]["n"] == 3
    times = sorted(sum(sample["token_ns"]) for sample in document["samples"])
    assert document["decode_s"]["median"] == pytest.approx(times[1] / 1e9)
    # The receipt is that of the run in the middle.
    recorded = written["evidence"]["run"]["token_ns"]
    assert recorded[-1] - recorded[0] == times[1]
    assert sum(document["bytes_by_part"].values()) == pytest.approx(document["bytes_per_token"])
    assert document["memory"]["peak_bytes"] >= document["peak_anonymous_bytes"] > 10_000_000
    # Attention's products come on top.
    assert document["prefill_bound_percent"]["median"] > document["prefill_limit_percent"]["median"] > 0
    assert document["warmup_s"] > 0
    assert document["load_s"] > 0
    assert document["host"]["machine"]["kernel"]


def test_the_text_and_the_default_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = tritium("benchmark", "--max-tokens", "4", "--warmup-tokens", "0", "--prompt", "ROMEO:", "--show-output")
    assert result.returncode == 0, result.stderr
    for word in (
        "int8 peak",
        "f32 peak",
        "% of the bound by int8 and attention's f32 products",
        "% of the bandwidth",
        "p99",
        "ffn_down",
        "tok/s",
        "warm-up",
        "energy",
        "anonymous",
    ):
        assert word in result.stdout
    assert "receipt         ci/inference.json: schema 1.0.0, real, cpu" in result.stdout
    assert tritium("verify-receipt").returncode == 0


def test_a_run_that_computes_nothing_never_says_real(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    refused = tritium("benchmark", "--backend", "null", "--tokens", "4", "-o", path)
    assert (refused.returncode, path.exists()) == (5, False)
    allowed = tritium("benchmark", "--backend", "null", "--tokens", "4", "-o", path, "--allow-mock")
    assert allowed.returncode == 0, allowed.stderr
    assert json.loads(path.read_text(encoding="utf-8"))["compute_path"] == "mock"
    judged = tritium("verify-receipt", path)
    assert judged.returncode == 1
    assert "FAIL E0 compute_path" in judged.stdout


def test_the_prompt_of_another_tokenizer(tmp_path: Path) -> None:
    import tokenizers

    library = tokenizers.Tokenizer(tokenizers.models.WordLevel({"one": 5, "two": 6, "?": 7}, unk_token="?"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    library.save(str(tmp_path / "tokenizer.json"))
    path = tmp_path / "receipt.json"
    size = ("--tokens", "2", "--repeats", "1", "--warmup-tokens", "0", "-o", path)
    for place in (tmp_path, tmp_path / "tokenizer.json"):
        result = tritium("benchmark", *size, "--prompt", "two one three", "--tokenizer", place)
        assert result.returncode == 0, result.stderr
        assert json.loads(path.read_text(encoding="utf-8"))["evidence"]["run"]["prompt_ids"] == [6, 5, 7]
    assert tritium("benchmark", *size, "--tokenizer", tmp_path / "absent.json").returncode == 3
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert tritium("benchmark", *size, "--tokenizer", tmp_path).returncode == 4


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("--tokens", "1"), 2, "tokens"),
        (("--repeats", "0"), 2, "repeats"),
        (("--tokens", "100000"), 2, "tokens to generate"),
        (("--threads", "0"), 2, "threads"),
        (("-m", "absent.gguf"), 3, "absent.gguf"),
        (("--json", "report.json"), 2, "--report FILE"),
        (("--features", "gpu"), 2, "--features"),
        (("--gpu", "--device", "cpu"), 2, "exclude"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = tritium("benchmark", *arguments)
    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.startswith("tritium: ")
    assert why in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_back_end_without_limits_is_measured_without_them() -> None:
    model, load_s, peak = open_timed(lambda: opened(backend="reference"))
    with model:
        work = Workload((tuple(prompt_of(model.config.vocab_size, 4)),), 3, greedy(3))
        result, runs = benchmark(model, work, load_s=load_s, peak=peak, probe_bytes=PROBE_BYTES)
    assert (result.limits, result.decode_limit_percent, result.warmup_s) == ((), None, None)
    assert result.decode_s.n == len(runs) == 1
    assert all(row.limit_percent is None for row in result.ops)


def test_the_products_of_a_prompt_are_those_of_its_matrices_and_of_attention() -> None:
    with opened() as model:
        once = run(model, prompt_of(model.config.vocab_size, 16), 1)
        config = model.config
        matrices = sum(s.attrs["n"] * s.attrs["k"] for s in model.plan.steps if s.op == "linear")
        # A query times its keys and as many values, itself among them.
        attention = 2 * config.n_layers * config.n_heads * config.head_dim * (16 * 17 // 2)
        assert products_of(once.prefill, model.plan) == (16 * matrices, attention)


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
        rows = op_table(once.decode, model.plan, Limits(2, "none", 10.0, 10.0, 5.0))
        linears = {step.label for step in model.plan.steps if step.op == "linear"}
        body = sum(row.bytes_per_token for row in rows if row.part == "body")
        panels = sum(r.nbytes for r in model.plan.residents if r.layout == "i2s")
        assert {row.op for row in rows if row.part == "body"} == linears
        assert body == pytest.approx(panels, rel=0.02)
        # Ten int8 products a nanosecond, five of float32, ten bytes: 2-bit weights are bound by the products, a float head by its
        # bytes, attention by either.
        for row in rows:
            if row.part != "other":
                bound = {
                    "body": row.macs_per_token / 10,
                    "head": row.bytes_per_token / 10,
                    "kv": max(row.macs_per_token / 5, row.bytes_per_token / 10),
                }[row.part]
                assert row.limit_percent == pytest.approx(bound / (10 * row.us_per_token), rel=1e-6)


def test_prompts_are_the_same_everywhere_and_in_range() -> None:
    assert prompt_of(1024, 4) == [(2654435761 * i) % 1024 for i in (1, 2, 3, 4)]
    assert prompt_of(1024, 4, seed=1) != prompt_of(1024, 4)


def test_a_difference_of_traces_is_what_came_between() -> None:
    with opened() as model:
        executor = model.engine.executor
        run(model, prompt_of(model.config.vocab_size, 4), 2)
        before = executor.trace()
        done = run(model, prompt_of(model.config.vocab_size, 8), 3)
        between = executor.trace().since(before)
    assert (between.n_steps, between.n_tokens) == (3, 10)
    assert sum(c.macs for c in between.counts) == sum(c.macs for t in (done.prefill, done.decode) for c in t.counts)


def test_the_middle_of_an_even_number_is_the_slower() -> None:
    with opened() as model:
        once = run(model, prompt_of(model.config.vocab_size, 4), 2)
    took = [replace(once, results=(replace(once.result, token_ns=(1, ns)),)) for ns in (5, 30, 10, 20)]
    assert middle(took) == 3
    assert middle(took[:1]) == 0
