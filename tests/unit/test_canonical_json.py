"""Strict reading and the canonical form of RFC 8785, against the rfc8785 package."""

from __future__ import annotations

import json
import math
import struct

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from tritium.errors import FormatError
from tritium.receipts import jcs, strict_json

FINITE = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | FINITE | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_canonical_form_is_that_of_rfc8785(value: object) -> None:
    assert jcs.canonical(value) == rfc8785.dumps(value)


@given(st.integers(0, 2**64 - 1))
def test_numbers_of_all_bit_patterns(bits: int) -> None:
    (x,) = struct.unpack("<d", struct.pack("<Q", bits))
    if math.isfinite(x):
        assert jcs.canonical(x) == rfc8785.dumps(x)


@pytest.mark.parametrize(
    ("x", "text"),
    [(1e21, "1e+21"), (1e20, "100000000000000000000"), (1e-6, "0.000001"), (1e-7, "1e-7"), (-0.0, "0"), (15.0, "15"),
     (1.5e300, "1.5e+300"), (5e-324, "5e-324")],
)  # fmt: skip
def test_numbers_at_the_borders(x: float, text: str) -> None:
    assert jcs.canonical(x) == text.encode()


@given(VALUES)
def test_text_for_people_reads_back(value: object) -> None:
    assert strict_json.loads(strict_json.text_of(value).encode()) == value


@pytest.mark.parametrize("value", [2**53, math.nan, math.inf, {1: 2}, b"x", "\ud800"])
def test_what_json_does_not_have_is_refused(value: object) -> None:
    with pytest.raises(FormatError, match="canonical JSON"):
        jcs.canonical(value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a":1,"a":1}', "'a' twice"),
        (b'{"a":{"b":1,"b":2}}', "'b' twice"),
        (b'{"a":NaN}', "finite"),
        (b"-Infinity", "finite"),
        (b"1e400", "finite"),
        (b"9007199254740992", "2\\^53"),
        (b"1" * 500, "2\\^53"),
        (b"[" * 33 + b"]" * 33, "32 levels"),
        (b"[" * 200_000, "32 levels"),
        (b'"\xff"', "UTF-8"),
        (b'"\\ud800"', "surrogate"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"a":1} {}', "Extra data"),
        (b"", "Expecting value"),
        (b"[1,]", "line 1"),
        (b"01", "Extra data"),
        (b'"\n"', "control character"),
        (b" " * (strict_json.MAX_BYTES + 1), "bytes"),
    ],
)
def test_malformed_json_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        strict_json.loads(data)


def test_brackets_in_strings_are_no_depth() -> None:
    assert strict_json.loads(json.dumps("[" * 100 + '\\"' + "{" * 100).encode()) == "[" * 100 + '\\"' + "{" * 100
