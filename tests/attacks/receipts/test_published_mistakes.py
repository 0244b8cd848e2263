"""What an earlier engine's own checks let pass is refused here, each for its reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import receipt_forgery as forgery
from command_line import tritium
from published_mistakes import PUBLISHED
from tritium.gates import compare, read_policy


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_is_refused(name: str) -> None:
    _, expected, receipts = PUBLISHED[name]
    data = [json.dumps(receipt).encode() for receipt in receipts]
    refused = {check for one in data for check in forgery.failed(one)}
    names = [f"{name}-{i}" for i in range(len(data))]
    refused |= {check.id for check in compare(data, names, read_policy()) if check.status == "FAIL"}
    assert expected in refused


def test_the_unit_is_named() -> None:
    _, _, (receipt,) = PUBLISHED["S6"]
    receipt = json.loads(json.dumps(receipt))
    for stage in receipt["performance_baseline"]["stages"]:
        del stage["percent"]
    (check,) = forgery.verdict(receipt).failed
    assert check.id == "published_stages"
    assert "Looks like ms written as µs" in check.hint


def test_a_folder_of_them_is_refused(tmp_path: Path) -> None:
    for i, receipt in enumerate(PUBLISHED["S9"][2]):
        (tmp_path / f"{i}.json").write_text(json.dumps(receipt), encoding="utf-8")
    result = tritium("verify-receipt", tmp_path)
    assert result.returncode == 1
    assert "FAIL E1 speed_spread: got 0.1" in result.stdout
