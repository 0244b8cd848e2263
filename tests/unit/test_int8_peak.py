"""The measured limit of integer kernels."""

from __future__ import annotations

import pytest

from tritium import _native
from tritium.backends import cpu


@pytest.mark.parametrize("isa", _native.isas())
def test_every_instruction_set_has_its_peak(isa: str) -> None:
    assert 0.1 < cpu.int8_peak(isa, 1) < 50_000
    assert 0.1 < cpu.int8_peak(isa, 2) < 100_000


@pytest.mark.parametrize("isa", ["", "avx", "altivec"])
def test_an_instruction_set_that_does_not_run_is_refused(isa: str) -> None:
    with pytest.raises(ValueError, match="isa: expected one that runs here"):
        cpu.int8_peak(isa, 1)
