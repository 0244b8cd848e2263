"""Run stages in order and keep what each found, whatever happens to one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from tritium.bench.merge.stages import Job, Stage
from tritium.bench.verdict import Decision, Word, worst
from tritium.errors import TritiumError


@dataclass(frozen=True, slots=True)
class Outcome:
    """All stages of a gate and its word: the worst of them."""

    gate: str
    started: datetime
    ended: datetime
    stages: tuple[Stage, ...]

    @property
    def word(self) -> Word:
        """The word of all stages together."""
        return worst(stage.decision.word for stage in self.stages)

    @property
    def figures(self) -> dict[str, object]:
        """All figures by name."""
        return {name: value for stage in self.stages for name, value in stage.decision.figures.items()}

    def of(self, name: str) -> Stage:
        """A stage by name."""
        return next(stage for stage in self.stages if stage.name == name)


def run_stages(
    gate: str,
    named: Iterable[tuple[str, Callable[[Job, Mapping[str, Stage]], Decision]]],
    job: Job,
    *,
    told: Callable[[Stage], None] = lambda stage: None,
) -> Outcome:
    """Run every stage; one that breaks is a FAIL with its error, and the others go on. ``told`` hears of each when it ends."""
    job.folder.mkdir(parents=True, exist_ok=True)
    stages = {name: Stage(name, run) for name, run in named}
    started = datetime.now(UTC)
    for stage in stages.values():
        begin = time.perf_counter()
        try:
            stage.decision = stage.run(job, stages)
        except (TritiumError, OSError, KeyError, ValueError) as error:
            stage.decision = Decision("FAIL", (f"{type(error).__name__}: {error}",))
        stage.seconds = time.perf_counter() - begin
        told(stage)
    return Outcome(gate, started, datetime.now(UTC), tuple(stages.values()))
