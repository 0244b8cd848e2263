"""The profiles of pytest: what they promise of threads, retries, limits and output."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

HANGING = """
import ctypes, time
import pytest

def test_passes():
    print("a passing test is quiet")

def test_fails():
    print("what a failing", "test printed")
    assert 1 == 2

@pytest.mark.timeout(20)
def test_has_a_longer_limit():
    time.sleep(3)

def test_hangs_in_native_code_that_keeps_the_interpreter():
    ctypes.PyDLL(None).usleep(60_000_000)
"""
CONFTEST = """
import sys
sys.path.insert(0, {tests!r})
import at_once
import longer_limits

def pytest_configure(config):
    at_once.register(config)
    config.pluginmanager.register(longer_limits)
"""


def arguments(repository: Path, profile: str) -> list[str]:
    """The arguments of a profile."""
    return (repository / "tests/profiles" / f"{profile}.txt").read_text(encoding="utf-8").split()


def test_the_default_profile_stops_at_the_first_failure_and_the_other_does_not(repository: Path) -> None:
    default, ci = arguments(repository, "default"), arguments(repository, "ci")
    assert {"--maxfail=1", "--numprocesses=auto", "--junitxml=build/junit.xml"} <= set(default)
    assert {"--numprocesses=4", "--junitxml=build/ci/junit.xml"} <= set(ci)
    assert not any("maxfail" in argument for argument in ci)
    assert not any("rerun" in argument or "flaky" in argument for argument in default + ci)


def test_every_test_has_a_limit_that_a_thread_holds(repository: Path) -> None:
    options = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"][
        "ini_options"
    ]
    assert (options["timeout"], options["timeout_method"]) == (300, "thread")
    assert options["faulthandler_timeout"] > options["timeout"]
    assert options["faulthandler_exit_on_timeout"] is True


def test_the_nightly_profile_gives_each_long_test_hours(repository: Path) -> None:
    nightly = arguments(repository, "nightly")
    limits = dict(argument.split("=") for argument in nightly if "timeout=" in argument)
    assert nightly[nightly.index("-m") + 1] == "nightly"
    assert float(limits["faulthandler_timeout"]) > float(limits["timeout"]) > 3600


def test_a_hang_ends_and_only_failures_are_printed(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.format(tests=str(repository / "tests")), encoding="utf-8")
    (tmp_path / "test_three.py").write_text(HANGING, encoding="utf-8")
    settings = [
        *("-o", "faulthandler_timeout=2", "-o", "faulthandler_exit_on_timeout=true"),
        *("-o", "timeout=1", "-o", "timeout_method=thread", "--junitxml=junit.xml", "-q", "-p", "no:cacheprovider"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "1", *settings, "test_three.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "a passing test is quiet" not in done.stdout
    assert done.stdout.count("E       assert 1 == 2") == 1
    assert done.stdout.count("what a failing test printed") == 1
    assert (
        "test_hangs_in_native_code_that_keeps_the_interpreter" in done.stdout
    )  # the worker was ended; xdist says in which test
    cases = {case.get("name"): case for case in ET.parse(tmp_path / "junit.xml").iter("testcase")}
    assert cases["test_fails"].find("failure") is not None
    assert not list(cases["test_passes"])
    assert not list(cases["test_has_a_longer_limit"])
