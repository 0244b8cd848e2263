"""The card of the embedded model says what its file holds and what the engine measures."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path

import numpy as np
import pytest

import tritium
from tritium.engine.model import resolve_model
from tritium.formats.gguf import open_gguf
from tritium.layouts import LAYOUTS


@pytest.fixture(scope="module")
def path() -> Path:
    return resolve_model("demo")


@pytest.fixture(scope="module")
def card(path: Path) -> dict[str, str]:
    """The rows of the card's two-column tables."""
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", text, re.MULTILINE))


def number(text: str) -> float:
    """The number that a cell begins with; thousands stand apart."""
    match = re.match(r"[\d ]+(\.\d+)?", text)
    assert match, text
    return float(match[0].replace(" ", ""))


def test_the_file_is_the_one_described(path: Path, card: dict[str, str]) -> None:
    data = path.read_bytes()
    assert card["SHA-256"] == f"`{hashlib.sha256(data).hexdigest()}`"
    assert number(card["size"]) == len(data) <= 6_000_000


def test_counts(path: Path, card: dict[str, str]) -> None:
    with open_gguf(path) as file:
        ternary = [name for name, info in file.tensors.items() if LAYOUTS[info.layout].is_ternary]
        sizes = {name: math.prod(info.shape) for name, info in file.tensors.items()}
        zeros = sum(int((file.trits(name)[0] == 0).sum()) for name in ternary)
        assert number(card["parameters"]) == sum(sizes.values())
        n_ternary = sum(sizes[name] for name in ternary)
        assert number(card["ternary parameters"]) == n_ternary
        assert number(card["zero trits"]) == round(100 * zeros / n_ternary, 1)
        assert number(card["context"]) == file.metadata["bitnet-b1.58.context_length"]


def test_held_out_loss_on_the_engine(card: dict[str, str], shared_data: Path) -> None:
    text = (shared_data / "tinyshakespeare.txt").read_bytes()
    held = text[len(text) * 95 // 100 :]
    nats = 0.0
    with tritium.load("demo") as model:
        bos = model.tokenize("")
        assert len(bos) == 1
        ids = model.tokenize(held.decode(), add_special_tokens=False)
        context = int(number(card["context"]))
        for start in range(0, len(ids), context):
            targets = ids[start : start + context]
            logits = model.logits([*bos, *targets[:-1]]).astype(np.float64)
            peak = logits.max(axis=1)
            totals = np.log(np.exp(logits - peak[:, None]).sum(axis=1)) + peak
            nats += float((totals - logits[np.arange(len(targets)), targets]).sum())
    assert number(card["ternary form, the shipped file"]) == pytest.approx(nats / math.log(2) / len(held), abs=2e-4)
