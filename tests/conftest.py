"""Fixtures that every test folder shares."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import at_once
import longer_limits
import native_builds

REPOSITORY = Path(__file__).resolve().parents[1]

# The same examples on every run and every machine: a red test must stay red when it is run again.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--native", type=Path, help="test this build of the native module instead of the installed one")


def pytest_configure(config: pytest.Config) -> None:
    # Also for fixtures that live longer than a test, and for programs that tests start: nobody's cache is touched.
    folder = tempfile.TemporaryDirectory(prefix="tritium-tests-")
    os.environ["XDG_CACHE_HOME"] = folder.name
    config.add_cleanup(folder.cleanup)
    native = config.getoption("--native")
    if native is not None:
        native_builds.use(native)
    at_once.register(config)
    config.pluginmanager.register(longer_limits)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of external test data: TRITIUM_TEST_DATA, else ``shared/data`` beside the source tree."""
    folder = Path(os.environ.get("TRITIUM_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no external test data at {folder}; set TRITIUM_TEST_DATA")
    return folder


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Tests see the defaults, whatever the developer has exported, and leave the environment as they found it.

    What libraries set for themselves is taken back; a variable of this project that a test leaves behind fails it.
    """
    before = dict(os.environ)
    for name in _ours():
        del os.environ[name]
    yield
    left = _ours()
    os.environ.clear()
    os.environ.update(before)
    assert not left, f"the test left behind {', '.join(left)}"


def _ours() -> list[str]:
    prefixes = ("TRITIUM_", "BITNET_", "RAYON_NUM_THREADS")
    return [name for name in os.environ if name.startswith(prefixes) and name != "TRITIUM_TEST_DATA"]
