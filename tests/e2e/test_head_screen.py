"""A model whose head is screened generates what it generates without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import tritium
from command_line import tritium as run
from tritium.errors import ShapeError, UnsupportedError


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[tritium.Model, tritium.Model]]:
    with tritium.load("demo", head_screen="on") as screened, tritium.load("demo", head_screen="off") as full:
        yield screened, full


def counted(model: tritium.Model, op: str) -> tuple[int, int, int]:
    """(calls, MACs, skipped MACs) of an op since the start."""
    kernels = {choice.kernel for step in model.plan.steps if step.op == op for choice in step.choices}
    counts = [c for c in model.engine.executor.trace().counts if c.kernel in kernels]
    return sum(c.calls for c in counts), sum(c.macs for c in counts), sum(c.macs_skipped for c in counts)


def test_the_plans_differ_and_the_graph_does_not(pair: tuple[tritium.Model, tritium.Model]) -> None:
    screened, full = pair
    assert screened.graph_hash == full.graph_hash
    assert screened.plan_hash != full.plan_hash


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.8, "top_k": 40, "seed": 3},
        {"temperature": 0.8, "top_p": 0.95, "seed": 5},
        {"temperature": 1.0, "min_p": 0.1, "seed": 6},
        {"temperature": 1.0, "seed": 4},
    ],
    ids=str,
)
def test_the_same_text(pair: tuple[tritium.Model, tritium.Model], fields: dict[str, float]) -> None:
    screened, full = pair
    prompts = ["ROMEO:", "JULIET:", "KING"]
    for model in pair:
        model.engine.executor.reset_trace()
    texts = [[r.text for r in m.generate(prompts, max_tokens=60, **fields)] for m in pair]
    assert texts[0] == texts[1]
    assert counted(full, "screen")[0] == 0
    head = screened.config.vocab_size * screened.config.d_model
    if "top_k" in fields or not fields:
        rescored, skipped = counted(screened, "rescore")[1:]
        assert skipped > 0
        assert (rescored + skipped) % head == 0
    else:
        assert counted(screened, "screen")[0] == 0


def test_a_receipt_of_a_screened_run_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    assert run("run", "-m", "demo", "ROMEO:", "-n", "20", "--head-screen", "on", "--receipt", path).returncode == 0
    rows = json.loads(path.read_text(encoding="utf-8"))["evidence"]["ledger"]["head_rows"]
    assert rows["screened"] > 0
    assert 0 < rows["rescored"] < rows["screened"] // 8
    judged = run("verify-receipt", path)
    assert judged.returncode == 0, judged.stdout


def test_full_logits_do_not_ask_for_the_plane(pair: tuple[tritium.Model, tritium.Model]) -> None:
    ids = pair[0].tokenize("The sun")
    pair[0].engine.executor.reset_trace()
    assert pair[0].logits(ids).tobytes() == pair[1].logits(ids).tobytes()
    assert counted(pair[0], "screen")[0] == 0


def test_the_command_line_asks_for_it(tmp_path: Path) -> None:
    texts = [run("run", "-m", "demo", "ROMEO:", "-n", "20", "--head-screen", s).stdout for s in ("on", "off", "auto")]
    assert texts[0] == texts[1] == texts[2]
    assert "screen_plane44" in run("plan", "demo", "--head-screen", "on").stdout
    assert "screen_plane44" not in run("plan", "demo").stdout
    refused = run("run", "-m", "demo", "ROMEO:", "--head-screen", "yes")
    assert refused.returncode == 2
    assert "head_screen" in refused.stderr
    with pytest.raises(UnsupportedError, match="cannot be screened"):
        tritium.load("demo", backend="reference", head_screen="on")
    with pytest.raises(ShapeError, match="head_screen"):
        tritium.load("demo", head_screen="maybe")
