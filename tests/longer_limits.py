"""A plugin: the limit for tests that hang in native code follows the longer limit that a test sets for itself."""

from __future__ import annotations

import faulthandler
import sys

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Set the process's timer anew, as far beyond the test's own limit as the general one is beyond the general limit."""
    marker = item.get_closest_marker("timeout")
    if marker is not None:
        limit, general = (float(item.config.getini(name)) for name in ("timeout", "faulthandler_timeout"))
        faulthandler.dump_traceback_later(float(marker.args[0]) + general - limit, exit=True, file=sys.__stderr__)
