"""Environment variables: unset, set, empty and wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tritium import env


def test_unset_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("HOME", "/nowhere")
    assert (env.isa(), env.threads(), env.no_color()) == (None, None, False)
    assert env.cache_folder() == Path("/nowhere/.cache/tritium")


def test_empty_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in env.VARIABLES:
        monkeypatch.setenv(variable.name, " ")
    monkeypatch.setenv("HOME", "/nowhere")
    assert (env.isa(), env.threads(), env.no_color()) == (None, None, False)
    assert env.cache_folder() == Path("/nowhere/.cache/tritium")


def test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITIUM_ISA", "avx2")
    monkeypatch.setenv("TRITIUM_THREADS", "3")
    monkeypatch.setenv("NO_COLOR", "0")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert (env.isa(), env.threads(), env.no_color()) == ("avx2", 3, True)
    assert env.cache_folder() == Path("/elsewhere/tritium")
    monkeypatch.setenv("TRITIUM_CACHE", "/here")
    assert env.cache_folder() == Path("/here")


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "٣", "1 2"])
def test_a_wrong_count_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TRITIUM_THREADS", text)
    with pytest.raises(ValueError, match="TRITIUM_THREADS: expected an integer of at least 1"):
        env.threads()


def test_threads_fall_back_to_the_historic_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYON_NUM_THREADS", "4")
    assert env.threads() == 4
    monkeypatch.setenv("TRITIUM_THREADS", "2")
    assert env.threads() == 2
    monkeypatch.delenv("TRITIUM_THREADS")
    monkeypatch.setenv("RAYON_NUM_THREADS", "0")
    assert env.threads() is None


def test_historic_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (env.is_strict(), env.is_deterministic(), env.seed(), env.model(), env.recorded()) == (
        False,
        False,
        None,
        None,
        {},
    )
    for text, is_on in (("1", True), ("true", True), ("0", False), ("off", False), ("", False)):
        monkeypatch.setenv("BITNET_STRICT_MODE", text)
        monkeypatch.setenv("BITNET_DETERMINISTIC", text)
        assert (env.is_strict(), env.is_deterministic()) == (is_on, is_on)
    monkeypatch.setenv("BITNET_SEED", "42")
    monkeypatch.setenv("BITNET_GGUF", "/a/model.gguf")
    assert (env.seed(), env.model()) == (42, "/a/model.gguf")
    assert env.recorded() == {"BITNET_SEED": "42", "BITNET_GGUF": "/a/model.gguf"}
    monkeypatch.setenv("BITNET_SEED", "-1")
    with pytest.raises(ValueError, match="BITNET_SEED: expected an integer of at least 0"):
        env.seed()
