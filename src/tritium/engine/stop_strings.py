"""End a text at a string, however the pieces of the text are cut."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Cuts a stream of text at the first stop string, wherever the borders of its pieces lie.

    The string that is complete first ends the text, of several the longest; what could be the beginning of one is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def push(self, piece: str) -> str:
        """Return the text that is certain now. After a match ``found`` is set and the rest is dropped."""
        if not self._stops:
            return piece
        held = self._held + piece
        matches = [(held.index(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in held]
        if matches:
            end, _, self.found = min(matches)
            self._held = ""
            return held[: end - len(self.found)]
        longest = max(map(len, self._stops)) - 1
        n_held = next((n for n in range(min(longest, len(held)), 0, -1) if self._starts_one(held[-n:])), 0)
        self._held = held[len(held) - n_held :]
        return held[: len(held) - n_held]

    def flush(self, rest: str = "") -> str:
        """Return what was held back and ``rest``, the end of the text, as far as no stop string comes of them."""
        if self.found is not None:
            return ""
        text = self.push(rest)
        held, self._held = self._held, ""
        return text + held

    def _starts_one(self, text: str) -> bool:
        return any(stop.startswith(text) for stop in self._stops)
