"""The error tree. Every message says what failed, where, what was expected, what was found, and what to do.

``TritiumError`` carries the exit code that the command line returns for it.
"""

from __future__ import annotations


class TritiumError(Exception):
    """Base of all errors raised on purpose.

    The text reads ``what: where: expected X, got Y. Hint.``; parts that are not given are left out.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: object = None,
        got: object = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.got = got
        self.hint = hint
        text = what if where is None else f"{what}: {where}"
        facts = []
        if expected is not None:
            facts.append(f"expected {expected}")
        if got is not None:
            facts.append(f"got {got}")
        if facts:
            text += ": " + ", ".join(facts)
        if hint is not None:
            text += f". {hint}"
        super().__init__(text)


class FormatError(TritiumError):
    """The file is malformed: truncated, contradictory, out of range."""

    exit_code = 4


class UnsupportedError(TritiumError):
    """The file is well formed, but it asks for something that Tritium does not do."""

    exit_code = 4


class ShapeError(TritiumError):
    """The caller passed an argument of the wrong shape, type or size; a full context is one."""

    exit_code = 2


class OutOfMemoryError(TritiumError, MemoryError):
    """The machine, or the control group, has less memory left than a model needs; nothing was allocated."""

    exit_code = 1


class NumericsError(TritiumError):
    """A NaN, an overflow or a parity failure: the numbers cannot be trusted."""

    exit_code = 5


class GateError(TritiumError):
    """Evidence was refused."""

    exit_code = 1
