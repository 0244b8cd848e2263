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
