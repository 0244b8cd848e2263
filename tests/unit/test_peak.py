"""The measured limits of kernels that compute more than they read."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tritium import _native
from tritium.backends import cpu

PEAKS = (cpu.int8_peak, cpu.f32_peak)


@pytest.mark.parametrize("peak", PEAKS)
@pytest.mark.parametrize("isa", _native.isas())
def test_every_instruction_set_has_its_peak(isa: str, peak: Callable[[str, int], float]) -> None:
    assert 0.1 < peak(isa, 1) < 50_000
    assert 0.1 < peak(isa, 2) < 100_000


@pytest.mark.parametrize("peak", PEAKS)
@pytest.mark.parametrize("isa", ["", "avx", "altivec"])
def test_an_instruction_set_that_does_not_run_is_refused(isa: str, peak: Callable[[str, int], float]) -> None:
    with pytest.raises(ValueError, match="isa: expected one that runs here"):
        peak(isa, 1)
