"""``tritium eval`` and ``tritium crossval`` as a process."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from command_line import tritium
from tiny_models import write_tiny
from tritium.engine.model import load

TEXT = "the cat in the tin, the other cat on the sea shore " * 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "m.gguf", "relu2_mha_tied")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_perplexity_scores_every_token_but_the_first(model: Path, text: Path) -> None:
    done = tritium("eval", "perplexity", text, "-m", model, "--context", 64, "--stride", 16, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    with load(model) as loaded:
        n = len(loaded.tokenize(TEXT))
    assert result["n_tokens"] == n - 1
    assert result["n_bytes"] == len(TEXT)
    assert result["n_windows"] == 1 + math.ceil((n - 64) / 16)
    nats = result["nats"]["value"]
    assert result["perplexity"]["value"] == pytest.approx(math.exp(nats), rel=1e-12)
    assert result["bits_per_byte"] == pytest.approx(nats * (n - 1) / math.log(2) / len(TEXT), rel=1e-12)
    assert 0 < result["nats"]["error"] < 1


def test_perplexity_reads_standard_input_and_prints_text(model: Path) -> None:
    done = tritium("eval", "perplexity", "-", "-m", model, "--tokens", 40, text=TEXT)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].endswith("· - · 39 tokens scored, 1 windows of 320, 160 apart")
    assert [line.split("  ")[0] for line in lines[1:]] == ["perplexity", "nats a token", "bits a byte"]
    assert " ± " in lines[1]


def test_compare_finds_two_settings_to_be_the_same_bits(model: Path, text: Path) -> None:
    done = tritium(
        "eval", "compare", model, model, text, "--tokens", 70, "--context", 48, "--a", "threads=1",
        "--b", "backend=reference", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["identical"] is True
    assert (result["flips"], result["max_abs"], result["kl"]["value"]) == (0, 0, 0)
    assert "reference" in result["b"]["model"]


def test_compare_tells_two_models_apart(model: Path, text: Path, tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "other.gguf", "relu2_mha_tied", seed=2)
    done = tritium("eval", "compare", model, other, text, "--tokens", 70)
    assert done.returncode == 0, done.stderr
    assert "identical" not in done.stdout
    assert "differs at " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--context", "2000"), 2, "context: expected 2 to 320"),
        (("--context", "8", "--stride", "9"), 2, "stride: expected 1 to 8"),
        (("--tokens", "1"), 2, "--tokens"),
        (("--backend", "other"), 4, "unknown back end"),
    ],
)
def test_perplexity_says_what_is_wrong(
    model: Path, text: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = tritium("eval", "perplexity", text, "-m", model, *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_a_text_that_is_missing_or_not_text_is_refused(model: Path, tmp_path: Path) -> None:
    missing = tritium("eval", "perplexity", tmp_path / "none.txt", "-m", model)
    assert missing.returncode == 3
    (tmp_path / "bytes").write_bytes(b"ab\xff\xfe")
    binary = tritium("eval", "perplexity", tmp_path / "bytes", "-m", model)
    assert binary.returncode == 2
    assert "not UTF-8 text: byte 2" in binary.stderr


def test_compare_refuses_unknown_settings(model: Path, text: Path) -> None:
    done = tritium("eval", "compare", model, model, text, "--a", "speed=9")
    assert done.returncode == 2
    assert (
        "--a: expected KEY=VALUE with a key of backend, device, i2s-layout, kv, threads, got 'speed=9'" in done.stderr
    )


def test_crossval_refuses_what_it_cannot_do(model: Path) -> None:
    assert tritium("crossval", model).returncode == 2
    assert tritium("crossval", model, "--against", "other").returncode == 2
    both = tritium("crossval", model, "--against", "transformers", "--text", "x", "--prompt", "y")
    assert both.returncode == 2
    assert "exclude each other" in both.stderr


def test_crossval_without_the_peer_names_the_extra(model: Path) -> None:
    try:
        import llama_cpp  # noqa: F401
    except ImportError:
        done = tritium("crossval", model, "--against", "llama-cpp")
        assert done.returncode == 4
        assert "Install it with: pip install 'tritium[crossval-llama]'" in done.stderr
    else:
        pytest.skip("the peer is installed")


def test_crossval_prints_a_report_and_fails_beyond_tolerance(model: Path) -> None:
    pytest.importorskip("transformers", reason="the crossval extra is not installed")
    common = ("crossval", model, "--against", "transformers", "--backend", "reference", "--tokens", 24)
    done = tritium(*common)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) <= 50
    assert max(map(len, done.stdout.splitlines())) <= 110
    assert done.stdout.splitlines()[-1] == "agrees within tolerance"
    strict = tritium(*common, "--cos-tol", "0.99999999", "--json", "--logits-only")
    assert strict.returncode == 5
    assert strict.stderr.startswith("tritium: ")
    report = json.loads(strict.stdout)
    assert report["agrees"] is False
    assert report["ops"] == []
    assert len(report["logits"]["cosine"]) == len(report["ids"]) == 24
    assert report["peer"]["name"] == "transformers"
