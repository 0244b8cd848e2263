"""Failures are printed when they happen and not again at the end; tests that pass print nothing but a dot."""

from __future__ import annotations

import pytest


class FailuresAtOnce:
    """A plugin of the process that reports: with xdist, the one that hands tests out."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.ensure_newline()
            terminal.write_sep("_", f"{report.nodeid} ({report.when})", red=True)
            terminal.write_line(report.longreprtext)
            for title, text in report.sections:
                terminal.write_sep("-", title)
                terminal.write_line(text.rstrip("\n"))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        self._config.option.tbstyle = "no"


def register(config: pytest.Config) -> None:
    """Add the plugin where this process reports."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(FailuresAtOnce(config), "failures-at-once")
