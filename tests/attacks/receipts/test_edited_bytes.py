"""A signed receipt does not survive the change of one byte, wherever it lies, and the verdict says why."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import pytest

import receipt_forgery as forgery
import receipt_mutants
from signing_scene import trusted
from tritium.gates import judge, judge_signed
from tritium.receipts.keys import Trust

SIGNED = receipt_mutants.signed(json.dumps(forgery.positive()))
TRUST = Trust.of([trusted()])
VALUES = {
    m[1].decode(): range(*m.span(2)) for m in re.finditer(rb'"(payload|payloadType|keyid|sig)":"([^"]+)"', SIGNED)
}
FORM = [at for at in range(len(SIGNED)) if not any(at in value for value in VALUES.values())]


def edited(at: int, byte: int | None = None) -> bytes:
    """Another byte at this place: by default a letter, which Base64 and names may have."""
    letter = ord("A") if SIGNED[at] != ord("A") else ord("B")
    return SIGNED[:at] + bytes([letter if byte is None else byte]) + SIGNED[at + 1 :]


def reasons(places: Iterable[int], byte: int | None = None) -> set[tuple[str, ...]]:
    """The checks that refused the edits; an empty tuple is one that was not refused."""
    verdicts = (judge_signed(edited(at, byte), TRUST, now=forgery.NOW) for at in places)
    return {tuple(check.id for check in verdict.failed) for verdict in verdicts}


def test_it_stands_unedited() -> None:
    assert not judge_signed(SIGNED, TRUST, now=forgery.NOW).failed
    assert set(VALUES) == {"payload", "payloadType", "keyid", "sig"}


def test_a_letter_of_the_payload() -> None:
    assert reasons(VALUES["payload"][:-4:307]) == {("signature",)}


@pytest.mark.nightly
def test_every_fifth_letter_of_the_payload() -> None:
    """Of four letters of Base64, each is met."""
    assert reasons(VALUES["payload"][:-4:5]) == {("signature",)}


@pytest.mark.parametrize("name", ["payloadType", "keyid"])
def test_any_letter_of_a_name(name: str) -> None:
    assert reasons(VALUES[name]) == {("signature",)}


def test_any_letter_of_the_signature() -> None:
    """The last one before the padding has four bits that have to be 0."""
    *letters, last, _, padding = VALUES["sig"]
    assert reasons(letters) == {("signature",)}
    assert reasons([last], ord("g") if SIGNED[last] == ord("Q") else ord("Q")) == {("signature",)}
    assert reasons([last], ord("B")) == {("envelope",)}
    assert reasons([padding]) == {("envelope",)}


def test_any_byte_between_them() -> None:
    """Called a bare receipt because its form is broken, it is none either."""
    assert reasons(FORM) == {("envelope",)}
    assert all(judge(edited(at), now=forgery.NOW).failed for at in FORM[::5])


def test_a_byte_that_is_no_text() -> None:
    assert reasons(range(0, len(SIGNED), 1009), 0xFF) == {("envelope",)}
