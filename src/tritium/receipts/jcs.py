"""The canonical form of JSON data, RFC 8785: one value, one sequence of bytes, so that it can be hashed."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from tritium.errors import FormatError
from tritium.receipts.strict_json import MAX_INTEGER


def canonical(value: Any) -> bytes:
    """UTF-8 bytes without white space, keys in the order of their UTF-16 code units, numbers as ECMAScript writes them.

    Errors: FormatError for NaN, Inf, integers beyond 2⁵³ − 1, lone surrogates, keys or values that JSON does not have.
    """
    try:
        return _text(value).encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError("canonical JSON", expected="Unicode text", got="a lone surrogate") from None


def digest(value: Any) -> str:
    """SHA-256 of the canonical form, in hexadecimal."""
    return hashlib.sha256(canonical(value)).hexdigest()


def _text(value: Any) -> str:
    if value is None or isinstance(value, (bool, str)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise FormatError("canonical JSON", expected="integers below 2^53", got=value)
        return str(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise FormatError("canonical JSON", expected="keys that are text", got=repr(key))
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{_text(key)}:{_text(value[key])}" for key in keys) + "}"
    raise FormatError("canonical JSON", expected="JSON data", got=type(value).__name__)


def _number(x: float) -> str:
    """ECMAScript's Number::toString: the shortest digits that read back as x."""
    if not math.isfinite(x):
        raise FormatError("canonical JSON", expected="finite numbers", got=x)
    if x == 0:
        return "0"
    sign = "-" if x < 0 else ""
    mantissa, _, exponent = f"{abs(x)!r}e0".partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent.split("e")[0])
    point -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0")
    n = len(digits)
    if n <= point <= 21:
        return sign + digits + "0" * (point - n)
    if 0 < point <= 21:
        return sign + digits[:point] + "." + digits[point:]
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + digits
    power = f"e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return sign + digits[0] + ("." + digits[1:] if n > 1 else "") + power
