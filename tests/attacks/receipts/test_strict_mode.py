"""Strict mode refuses what a forger would have to hide: exit 5, no receipt."""

from __future__ import annotations

import pytest

import receipt_forgery as forgery
from receipt_forgery import Edit
from tritium.cli._receipt import _refuse
from tritium.errors import NumericsError

REFUSED: dict[str, tuple[Edit, str]] = {
    "a mock path": (lambda r: r.update(compute_path="mock"), "compute_path"),
    "a mock kernel": (lambda r: r["kernels"].__setitem__(0, "mock_gemv"), "mock_kernels"),
    "an unknown kernel": (lambda r: r["kernels"].__setitem__(0, "i2s_gemw"), "known_kernels"),
    "an implausible speed": (lambda r: forgery.scale_times(r, 1 / 60), "compute_time"),
    "a layer that is not quantized": (forgery.one_layer_in_floats, "fp32_gem"),
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
