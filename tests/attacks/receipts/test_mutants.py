"""Almost no field of a receipt can change alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import receipt_forgery as forgery
import receipt_mutants
from signing_scene import STRANGER, trusted
from tritium.gates import judge_signed
from tritium.receipts.keys import Trust


def unexplained(result: receipt_mutants.Result) -> list[receipt_mutants.Mutant]:
    return [m for m in result.survivors if receipt_mutants.reason(m.field).startswith("accepted:")]


def test_of_every_sixth_change_95_in_100_are_refused_or_capped() -> None:
    result = receipt_mutants.kill(forgery.positive(), every=6)
    assert result.made.total() > 250
    assert result.rate >= 0.95
    assert not unexplained(result)


def test_signing_a_change_again_does_not_help_it() -> None:
    """What fails inside a trusted signature fails for what it says: none of these is refused for its signature."""
    result = receipt_mutants.kill(forgery.positive(), every=31, judged=receipt_mutants.verdict_on_signed)
    assert result.made.total() > 50
    assert result.rate >= 0.95
    assert not unexplained(result)


def test_the_receipt_itself_signed_again_stands() -> None:
    verdict = receipt_mutants.verdict_on_signed(json.dumps(forgery.positive()))
    assert not verdict.failed
    levels = {claim.name: claim.level for claim in verdict.claims}
    assert levels == forgery.levels(forgery.positive())


def test_a_change_under_a_strangers_signature_is_refused_for_that() -> None:
    data = receipt_mutants.signed(json.dumps(forgery.positive()), STRANGER)
    verdict = judge_signed(data, Trust.of([trusted()]), now=forgery.NOW)
    assert [check.id for check in verdict.failed] == ["signature"]


@pytest.mark.nightly
def test_the_page_tells_what_becomes_of_every_change() -> None:
    script = forgery.ROOT / "scripts" / "judge_mutants.py"
    assert subprocess.run([sys.executable, script, "--check"], check=False).returncode == 0
