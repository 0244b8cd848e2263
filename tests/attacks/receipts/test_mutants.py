"""Almost no field of a receipt can change alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

import receipt_forgery as forgery
import receipt_mutants


def test_of_every_sixth_change_95_in_100_are_refused_or_capped() -> None:
    result = receipt_mutants.kill(forgery.positive(), every=6)
    assert result.made.total() > 250
    assert result.rate >= 0.95
    unexplained = [m for m in result.survivors if receipt_mutants.reason(m.field).startswith("accepted:")]
    assert not unexplained


@pytest.mark.nightly
def test_the_page_tells_what_becomes_of_every_change() -> None:
    script = forgery.ROOT / "scripts" / "judge_mutants.py"
    assert subprocess.run([sys.executable, script, "--check"], check=False).returncode == 0
