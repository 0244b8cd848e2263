"""Strict mode refuses what a forger would have to hide: exit 5, no receipt."""

from __future__ import annotations

import pytest

import receipt_forgery as forgery
from receipt_forgery import Edit, Receipt
from tritium.cli._receipt import _refuse
from tritium.errors import NumericsError


def fallback(receipt: Receipt) -> None:
    evidence = receipt["evidence"]
    receipt["model_quantization"] = "hybrid: blk.0.attn_output in f32"
    for row in evidence["plan"]["residents"]:
        if row["tensors"] == ["blk.0.attn_output.weight"]:
            row.update(layout="f32", nbytes=4 * row["rows"] * row["cols"])
    for row in evidence["ledger"]["steps"]:
        if row["step"] == "0.attn_output":
            row["kernel"] = row["kernel"].replace("i2s_", "fp32_").replace("avx512vnni", "matmul")
    forgery.add_up(receipt)


REFUSED: dict[str, tuple[Edit, str]] = {
    "a mock path": (lambda r: r.update(compute_path="mock"), "compute_path"),
    "a mock kernel": (lambda r: r["kernels"].__setitem__(0, "mock_gemv"), "mock_kernels"),
    "an unknown kernel": (lambda r: r["kernels"].__setitem__(0, "i2s_gemw"), "known_kernels"),
    "an implausible speed": (lambda r: forgery.scale_times(r, 1 / 60), "compute_time"),
    "a layer that is not quantized": (fallback, "fp32_gem"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name: str) -> None:
    edit, why = REFUSED[name]
    with pytest.raises(NumericsError, match="strict mode refuses the run") as refusal:
        _refuse(forgery.edited(edit))
    assert refusal.value.exit_code == 5
    assert why in str(refusal.value)


def test_an_honest_run_passes() -> None:
    _refuse(forgery.positive())
