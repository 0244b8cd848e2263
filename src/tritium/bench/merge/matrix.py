"""The decision about a change: criteria computed from the stages' evidence, and the stage that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tritium.bench.merge.pipeline import Outcome
from tritium.bench.merge.rules import Rules
from tritium.bench.verdict import Decision, Word, worst


@dataclass(frozen=True, slots=True)
class Criterion:
    """One row: what is asked for, what was found, the word."""

    name: str
    asked: str
    found: str
    word: Word


def criteria(outcome: Outcome, rules: Rules) -> tuple[Criterion, ...]:
    """The seven criteria of the gate of benchmarks; the last holds if all others do."""
    figures = outcome.of("verify").decision.figures
    rows = [
        _of_stage(
            outcome, "latency", f"{rules.slo['latency_tokens']:g} tokens in {rules.slo['latency_s']:g} s at most"
        ),
        _of_stage(outcome, "accuracy", f"above {rules.slo['accuracy_percent']:g} %"),
        _fact(figures, "kernels_all_real", "every kernel in the registry", True),
        _fact(figures, "compute_path", "compute path real", "real"),
        _fact(figures, "schema_version", "schema 1.0.0", "1.0.0"),
        _of_stage(outcome, "baseline", "no difference but speed, and that not below the baseline's"),
    ]
    others = [outcome.of(name).decision.word for name in ("build", "benchmark", "verify")]
    ready = worst([*(row.word for row in rows), *others])
    return (*rows, Criterion("production readiness", "all of the above, built and verified", ready, ready))


def _of_stage(outcome: Outcome, name: str, asked: str) -> Criterion:
    decision = outcome.of(name).decision
    return Criterion(name, asked, "; ".join(decision.reasons), decision.word)


def _fact(figures: Mapping[str, Any], name: str, asked: str, wanted: object) -> Criterion:
    if name not in figures:
        return Criterion(name.replace("_", " "), asked, "no receipt", "PENDING")
    word: Word = "PASS" if figures[name] == wanted else "FAIL"
    return Criterion(name.replace("_", " "), asked, str(figures[name]), word)


def decide(outcome: Outcome, rules: Rules) -> Decision:
    """The gate's decision: its word, why, and where the change goes next."""
    word = outcome.word
    reasons = [
        f"{stage.name}: {reason}"
        for stage in outcome.stages
        if stage.decision.word == word
        for reason in stage.decision.reasons
    ]
    word_for_route: Word = "INCONCLUSIVE" if word == "PENDING" else word
    return Decision(word, tuple(reasons), {"next": rules.route("benchmarks", word_for_route)})


def confidence(outcome: Outcome) -> str:
    """How much of the gate was measured: stages with a verdict of all stages."""
    measured = sum(stage.decision.word not in ("PENDING", "NOT MEASURED") for stage in outcome.stages)
    return f"{measured} of {len(outcome.stages)} stages measured"
