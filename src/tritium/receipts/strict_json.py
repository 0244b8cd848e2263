"""Read JSON that means one thing only: no duplicate keys, no numbers that another reader would see differently."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from tritium.errors import FormatError

MAX_BYTES = 8 << 20
MAX_DEPTH = 32
MAX_INTEGER = (1 << 53) - 1
"""The greatest integer that every JSON reader keeps exactly."""

# A string that does not end is taken to the end of the text at once: from each quote in it, that would take its length squared.
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\Z|\\\Z)|[\[\]{}]', re.DOTALL)


def loads(data: bytes) -> Any:
    """The value of one JSON document.

    Errors: FormatError for text that is not UTF-8, duplicate keys, NaN and infinities (1e400 among them), integers beyond
    2⁵³ − 1, lone surrogates, more than 32 levels, more than 8 MiB, or anything else that RFC 8259 does not allow.
    """
    if len(data) > MAX_BYTES:
        raise FormatError("JSON", expected=f"at most {MAX_BYTES} bytes", got="more")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("JSON", where=f"byte {error.start}", expected="UTF-8") from None
    _check_depth(text)
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_float
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise FormatError("JSON", where=f"line {error.lineno}, column {error.colno}", got=error.msg) from None
    except UnicodeEncodeError:
        raise FormatError("JSON", expected="Unicode text", got="a lone surrogate") from None
    return value


def text_of(value: Any) -> str:
    """JSON text of a value, for people: two spaces of indentation, short lists on one line. Errors: ValueError for NaN or Inf."""
    return _compact(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def _compact(text: str) -> str:
    """Put lists of numbers on one line each: a receipt is read by people, and token times are hundreds of lines otherwise."""
    number = r"-?\d[\d.eE+-]*"
    return re.sub(rf"\[\s+({number}(?:,\s+{number})*)\s+\]", lambda m: "[" + re.sub(r",\s+", ", ", m[1]) + "]", text)


def _check_depth(text: str) -> None:
    depth = 0
    for match in _STRUCTURE.finditer(text):
        mark = match[0]
        if mark in ("[", "{"):
            depth += 1
            if depth > MAX_DEPTH:
                raise FormatError("JSON", expected=f"at most {MAX_DEPTH} levels", got="more")
        elif mark in ("]", "}"):
            depth -= 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise FormatError("JSON", expected="each key once", got=f"{twice[:60]!r} twice")
    return made


def _constant(name: str) -> NoReturn:
    raise FormatError("JSON", expected="finite numbers", got=name)


def _integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > MAX_INTEGER:
        raise FormatError("JSON", expected="integers below 2^53", got=text[:24])
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise FormatError("JSON", expected="finite numbers", got=text[:24])
    return value
