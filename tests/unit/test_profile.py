"""The numeric profile is frozen: its known answers have one hash."""

from __future__ import annotations

import numpy as np
import pytest

from tritium import numerics, profile


def test_the_profile_is_what_its_hash_says() -> None:
    assert profile.profile_hash() == profile.PROFILE_HASH


def test_a_changed_rounding_changes_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    def half_away(x: np.ndarray, bits: int = 8) -> tuple[np.ndarray, np.ndarray]:
        scale = np.maximum(np.abs(x).max(axis=1), numerics.MIN_ABSMAX) / np.float32(127)
        return np.trunc(x / scale[:, None] + np.copysign(np.float32(0.5), x)).astype(np.int8), scale

    monkeypatch.setattr(numerics, "quantize_activations", half_away)
    assert profile.profile_hash() != profile.PROFILE_HASH


def test_every_known_answer_is_a_number() -> None:
    names = [name for name, _ in profile.known_answers()]
    assert len(names) == len(set(names)) == 17
    for name, result in profile.known_answers():
        if name in ("exp", "attend", "rmsnorm", "silu_mul", "project_logits"):
            assert np.isfinite(np.frombuffer(result, np.float32)).all(), name
