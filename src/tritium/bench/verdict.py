"""The words of every decision about speed, how several become one, and the exit codes that they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Word = Literal["PASS", "FAIL", "ATTENTION", "INCONCLUSIVE", "NOT MEASURED", "PENDING"]

EXIT_CODES: dict[Word, int] = {
    "PASS": 0,
    "ATTENTION": 0,
    "NOT MEASURED": 0,
    "FAIL": 6,
    "INCONCLUSIVE": 8,
    "PENDING": 8,
}
"""NOT MEASURED neither passes nor fails: where nothing else was measured either, the whole is INCONCLUSIVE."""

_WEIGHT: tuple[Word, ...] = ("NOT MEASURED", "PASS", "ATTENTION", "PENDING", "INCONCLUSIVE", "FAIL")


@dataclass(frozen=True, slots=True)
class Decision:
    """One word, why, and the figures it rests on.

    ``reasons`` are sentences for people; ``figures`` are plain values by name for everything that renders them.
    """

    word: Word
    reasons: tuple[str, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """The code of a program that ends with it."""
        return EXIT_CODES[self.word]

    def as_json(self) -> dict[str, Any]:
        """All of it by name."""
        return {
            "verdict": self.word,
            "exit_code": self.exit_code,
            "reasons": list(self.reasons),
            "figures": dict(self.figures),
        }


def worst(words: Iterable[Word]) -> Word:
    """The word of several together: the heaviest; INCONCLUSIVE if nothing at all was measured."""
    heaviest: Word = max(words, key=_WEIGHT.index, default="NOT MEASURED")
    return "INCONCLUSIVE" if heaviest == "NOT MEASURED" else heaviest


def together(decisions: Iterable[Decision]) -> Decision:
    """Several decisions as one: the worst word, the reasons of those that bear it first."""
    every = tuple(decisions)
    word = worst(d.word for d in every)
    ordered = sorted(every, key=lambda d: -_WEIGHT.index(d.word))
    figures = {name: value for d in every for name, value in d.figures.items()}
    return Decision(word, tuple(reason for d in ordered for reason in d.reasons), figures)
