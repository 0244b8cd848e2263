"""Lies that are told in many fields at once, so that these agree: refused for what they still cannot agree with."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict

import pytest

import receipt_forgery as forgery
import tiny_models
from receipt_forgery import Edit, Receipt
from tritium.bench.machine import read_machine
from tritium.engine.model import Model, load
from tritium.engine.sampling import SamplingParams
from tritium.evidence.record import build_receipt
from tritium.evidence.recorder import recorder
from tritium.evidence.replay import replay_checks


def record(model: Model, n: int = 24) -> Receipt:
    params, watch = SamplingParams(max_tokens=n, ignore_eos=True), recorder(model)
    with model.stream("ROMEO:", params, measure=True, observer=watch) as stream:
        for _ in stream:
            pass
    machine = asdict(read_machine())
    return build_receipt(model, stream.result, watch, params, machine=machine, probe=None, repeats=[stream.result])


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receipt]:
    """An honest receipt of another model."""
    path = tmp_path_factory.mktemp("models") / "other.gguf"
    with load(tiny_models.write_tiny(path, "relu2_mha_tied")) as model:
        yield record(model)


def test_the_identity_of_another_model_is_not_that_of_the_work(other: Receipt) -> None:
    """Hash, tensors and shapes of one model, ledger and tokens of another."""
    receipt = forgery.positive()
    receipt["model"] = other["model"]
    receipt["evidence"]["model"] = other["evidence"]["model"]
    found = forgery.failed(receipt)
    assert {"layout_map", "coverage", "token_ids"} <= found
    assert "model_hash" not in found


def test_the_identity_and_the_memory_of_another_model_are_not_that_of_the_work(other: Receipt) -> None:
    """Its plan as well: the multiplications remain."""
    receipt = forgery.positive()
    receipt["model"] = other["model"]
    for name in ("model", "plan"):
        receipt["evidence"][name] = other["evidence"][name]
    assert {"coverage", "attention_macs", "head_macs", "token_ids"} <= forgery.failed(receipt)


def test_everything_of_another_model_but_the_text_is_not_its_text(other: Receipt) -> None:
    """Ledger and all: only a replay can tell, and it takes the model that is named."""
    receipt = copy.deepcopy(other)
    ids = receipt["evidence"]["run"]["token_ids"]
    ids[:] = [(token + 1) % 200 for token in ids]
    forgery.retell_ids(receipt)
    assert not forgery.failed(receipt)
    receipt["model"]["sha256"] = receipt["evidence"]["model"]["sha256"] = forgery.positive()["model"]["sha256"]
    found = [check.id for check in replay_checks(receipt, None) if check.status == "FAIL"]
    assert found == ["replay_graph", "replay_tokenizer", "replay_ids"]


def test_a_trace_and_the_text_of_another_run() -> None:
    """As many positions, so that nothing but a replay can tell."""
    with load("demo") as model:
        receipt = record(model, 12)
        params, watch = SamplingParams(max_tokens=12, temperature=1.0, seed=9), recorder(model)
        with model.stream("ROMEO:", params, measure=True, observer=watch) as stream:
            for _ in stream:
                pass
        theirs = stream.result
    run = receipt["evidence"]["run"]
    run["token_ids"] = list(theirs.token_ids)
    forgery.retell_ids(receipt)
    assert not forgery.failed(receipt)
    assert "replay_ids" in {check.id for check in replay_checks(receipt, None) if check.status == "FAIL"}


def a_thousand_threads(receipt: Receipt) -> None:
    """Two hundred times as fast, on as many processors as that takes."""
    forgery.scale_times(receipt, 1 / 200)
    evidence = receipt["evidence"]
    evidence["run"]["threads"] = evidence["bandwidth"]["n_threads"] = 1024
    evidence["machine"].update(n_cpus=1024, n_cores=1024, cpu=None)
    evidence["bandwidth"].update(samples_gb_per_s=[80_000.0] * 3, median_gb_per_s=80_000.0)


def many_tokens(receipt: Receipt) -> None:
    """Twenty thousand tokens at an honest pace, with times and passes of their own; the work of forty-eight."""
    run = receipt["evidence"]["run"]
    n, last, step = 20_000, run["passes"][-1], run["token_ns"][-1] - run["token_ns"][-2]
    run["token_ids"] = [run["token_ids"][i % 48] for i in range(n)]
    while len(run["token_ns"]) < n:
        i = len(run["token_ns"])
        gap = step + i * i % 97
        run["passes"].append({**last, "start_ns": run["token_ns"][-1] + 10, "position": run["n_prompt"] + i - 1})
        run["token_ns"].append(run["token_ns"][-1] + gap)
    run["max_tokens"] = n
    receipt.update(tokens_generated=n, tokens_requested=n)
    receipt["evidence"]["ledger"].update(n_steps=n, n_tokens=run["n_prompt"] + n - 1)
    receipt["evidence"]["trace"]["n_leaves"] = run["n_prompt"] + n - 1
    forgery.retell_ids(receipt)
    forgery.retell_times(receipt)


def two_speeds(receipt: Receipt) -> None:
    receipt["performance_baseline"] = {"tokens_per_second": 10 * receipt["tokens_per_second"]}


REWRITES: dict[str, tuple[Edit, str]] = {
    "two hundred times as fast on a thousand threads": (a_thousand_threads, "bandwidth_ceiling"),
    "twenty thousand tokens": (many_tokens, "body_macs"),
    "a speed for each shape of receipt": (two_speeds, "published_speed"),
    "evidence of the CPU under the name of a GPU": (lambda r: r.update(backend="metal"), "backend_class"),
    "a quantization that the file has not": (lambda r: r.update(model_quantization="TL2"), "layout_map"),
    "a quantization of the model that it has not": (lambda r: r["model"].update(quantization="TQ1_0"), "layout_map"),
    "a kernel in letters of another alphabet": (
        lambda r: forgery.rename_kernels(r, lambda k: k.replace("i2s", "\u04562s")), "known_kernels",
    ),
    "evidence that is nothing": (lambda r: r.update(evidence=None), "schema"),
}  # fmt: skip


@pytest.mark.parametrize("name", REWRITES)
def test_it_is_refused_for_what_is_left(name: str) -> None:
    edit, expected = REWRITES[name]
    assert expected in forgery.failed(forgery.edited(edit))


@pytest.mark.parametrize("said", ["I2S", "i2_s", "hybrid: blk.0.attn_output in f32", "ternary"])
def test_a_quantization_that_is_the_files_stands(said: str) -> None:
    assert not forgery.failed(forgery.edited(lambda r: r.update(model_quantization=said)))


def test_one_speed_in_both_shapes_stands() -> None:
    def both(receipt: Receipt) -> None:
        receipt["performance_baseline"] = {"tokens_per_second": receipt["tokens_per_second"]}

    assert not forgery.failed(forgery.edited(both))
    assert "published_speed" in forgery.failed(forgery.edited(two_speeds, forgery.bare()))


def test_what_a_plausible_lie_can_reach() -> None:
    """A run told three times as fast agrees with itself and with physics: below E6 nothing shows it, and the page says so."""
    assert forgery.levels(forgery.edited(lambda r: forgery.scale_times(r, 1 / 3)))["speed"] == "E3"
