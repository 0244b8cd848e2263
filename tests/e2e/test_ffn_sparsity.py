"""A model that leaves out what zeros make needless generates what it generates without, and its receipts say so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import receipt_forgery as forgery
import tritium
from command_line import tritium as run
from tritium.bench.sparsity import sparsity
from tritium.receipts import registry

Receipt = dict[str, Any]


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[tritium.Model, tritium.Model]]:
    with (
        tritium.load("demo", ffn_sparsity="on", threads=3) as sparse,
        tritium.load("demo", ffn_sparsity="off") as dense,
    ):
        yield sparse, dense


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.9, "seed": 4}], ids=str)
def test_the_same_text_and_the_same_work_executed_or_skipped(
    pair: tuple[tritium.Model, tritium.Model], fields: dict[str, float]
) -> None:
    totals = []
    texts = []
    for model in pair:
        model.engine.executor.reset_trace()
        texts.append([r.text for r in model.generate(["ROMEO:"], max_tokens=40, **fields)])
        counts = [c for c in model.engine.executor.trace().counts if "ffn_" in c.step and c.kernel.startswith("i2s_")]
        totals.append(sum(c.macs + c.macs_skipped for c in counts))
    assert texts[0] == texts[1]
    assert totals[0] == totals[1]


def test_its_zeros_are_counted(pair: tuple[tritium.Model, tritium.Model]) -> None:
    for model in pair:
        model.engine.executor.reset_trace()
        model.generate(["ROMEO:"], max_tokens=40)
    found, none = (sparsity(model.engine.executor.trace()) for model in pair)
    assert none is None
    assert found is not None
    assert found.zero_gates is not None
    assert found.zero_codes is not None
    assert 0.5 < found.zero_gates < found.zero_codes < 1
    assert len(found.zero_gates_by_layer) == len(found.zero_codes_by_layer) == pair[0].config.n_layers


@pytest.fixture(scope="module")
def receipt(tmp_path_factory: pytest.TempPathFactory) -> Receipt:
    path = tmp_path_factory.mktemp("receipts") / "receipt.json"
    done = run("run", "-m", "demo", "ROMEO:", "-n", "20", "--ffn-sparsity", "on", "--receipt", path)
    assert done.returncode == 0, done.stderr
    judged = run("verify-receipt", path)
    assert judged.returncode == 0, judged.stdout
    value: Receipt = json.loads(path.read_text(encoding="utf-8"))
    return value


def rows(receipt: Receipt, reason: str) -> list[dict[str, Any]]:
    """Rows of kernels that skip for this reason, in the order of layers."""
    return [r for r in receipt["evidence"]["ledger"]["steps"] if registry.skip_reason(r["kernel"]) == reason]


def test_work_is_skipped_for_a_reason(receipt: Receipt) -> None:
    said = receipt["evidence"]["ledger"]["macs_skipped_by_reason"]
    assert said == {
        reason: sum(r["macs_skipped"] for r in rows(receipt, reason)) for reason in ("zero_gate", "zero_code")
    }
    assert all(said.values())


def skip_more(receipt: Receipt) -> None:
    rows(receipt, "zero_gate")[0]["macs_skipped"] += 256


def skip_half_a_row(receipt: Receipt) -> None:
    row = rows(receipt, "zero_gate")[0]
    row["macs"] -= 100
    row["macs_skipped"] += 100


def skip_in_a_dense_kernel(receipt: Receipt) -> None:
    steps = receipt["evidence"]["ledger"]["steps"]
    row = next(r for r in steps if r["kernel"].startswith("i2s_gemv") and "attn_output" in r["step"])
    row["macs"] -= 2560
    row["macs_skipped"] += 2560


def skip_gates_whose_codes_count(receipt: Receipt) -> None:
    row, other = rows(receipt, "zero_gate")[0], rows(receipt, "zero_code")[0]
    more = (other["macs_skipped"] // 256 + 1) * 256 - row["macs_skipped"]
    row["macs"] -= more
    row["macs_skipped"] += more
    row["bytes"] = row["macs"] // 256 * 64 + 4 * row["calls"]


def read_less(receipt: Receipt) -> None:
    rows(receipt, "zero_code")[0]["bytes"] -= 64


def tell_another_reason(receipt: Receipt) -> None:
    said = receipt["evidence"]["ledger"]["macs_skipped_by_reason"]
    said["zero_gate"], said["zero_code"] = said["zero_code"], said["zero_gate"]


FORGERIES: dict[Callable[[Receipt], None], str] = {
    skip_more: "body_macs",
    skip_half_a_row: "body_macs",
    skip_in_a_dense_kernel: "body_macs",
    skip_gates_whose_codes_count: "skipped_macs",
    read_less: "weight_bytes",
    tell_another_reason: "skipped_macs",
}


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda f: f.__name__)
def test_a_forged_ledger_is_refused(receipt: Receipt, forge: Callable[[Receipt], None]) -> None:
    def edit(copy: Receipt) -> None:
        forge(copy)
        forgery.add_up(copy)

    assert FORGERIES[forge] in forgery.failed(forgery.edited(edit, receipt))


def test_the_command_line_shows_it(tmp_path: Path) -> None:
    shown = run("benchmark", "-m", "demo", "-n", "8", "--repeats", "1", "--warmup-tokens", "0", "--ffn-sparsity", "on",
                "-o", tmp_path / "r.json", "--report", tmp_path / "report.json")  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert "zero codes" in shown.stdout
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert 0.5 < report["ffn_sparsity"]["zero_codes"] < 1
    assert "i2s_columns_gemv" in run("plan", "demo", "--ffn-sparsity", "on").stdout
    refused = run("run", "-m", "demo", "ROMEO:", "--ffn-sparsity", "yes")
    assert refused.returncode == 2
    assert "ffn_sparsity" in refused.stderr
