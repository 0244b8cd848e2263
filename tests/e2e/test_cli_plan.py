"""``tritium plan`` and ``tritium self-test`` as processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tritium as package
from command_line import tritium
from tiny_models import TINY, write_tiny
from tritium.cli import self_test
from tritium.errors import NumericsError


@pytest.mark.parametrize("name", ["demo", "llama_gqa_untied_wide_heads"])
def test_a_plan_prints_whole(name: str, tmp_path: Path) -> None:
    model = "demo" if name == "demo" else str(write_tiny(tmp_path / "m.gguf", name))
    done = tritium("plan", model, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    with package.load(model) as loaded:
        assert (document["graph_hash"], document["plan_hash"]) == (loaded.graph_hash, loaded.plan_hash)
        assert len(document["steps"]) == len(loaded.plan.steps)
    assert sum(step["macs"] for step in document["steps"]) > 0
    done = tritium("plan", model, "--backend", "reference", "--tokens", "8", "--kv-len", "100")
    assert done.returncode == 0, done.stderr
    assert "T = 8, kv_len = 100" in done.stdout
    assert len(done.stdout.splitlines()) < 50


def test_the_graph_hash_does_not_know_the_back_end() -> None:
    documents = [
        json.loads(tritium("plan", "demo", "--json", "--backend", name).stdout) for name in ("cpu", "reference")
    ]
    assert documents[0]["graph_hash"] == documents[1]["graph_hash"]
    assert documents[0]["plan_hash"] != documents[1]["plan_hash"]


def test_a_context_beyond_the_model_is_refused() -> None:
    done = tritium("plan", "demo", "--max-context", "100000000")
    assert done.returncode == 2
    assert "max_context" in done.stderr


def test_the_self_test_passes_and_shows_its_rows() -> None:
    done = tritium("self-test", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    usable = [name for name, status in document["isa_status"].items() if status == "ok"]
    assert document["ok"]
    assert {row["isa"] for row in document["rows"]} == {"", *usable}
    assert len({row["logits_sha256"] for row in document["rows"]}) == 1
    assert [row["threads"] for row in document["rows"]] == [1, *[1, 2, 3] * len(usable)]
    done = tritium("self-test", TRITIUM_ISA="scalar")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" ok\n") >= 4


def test_the_self_test_sees_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_tiny(tmp_path / "m.gguf", next(iter(TINY)))
    honest = self_test.logits_hash

    def hash_of(path: Path, isas: tuple[str, ...] | None, n_threads: int) -> str:
        return honest(path, None, 1) if isas is None or n_threads == 1 else "0" * 64

    monkeypatch.setattr(self_test, "logits_hash", hash_of)
    with pytest.raises(NumericsError, match="scalar with 2 threads: logits differ"):
        self_test.command.main(["-m", str(model)], standalone_mode=False)
    assert "DIFFERS" in capsys.readouterr().out
    assert NumericsError.exit_code == 5
