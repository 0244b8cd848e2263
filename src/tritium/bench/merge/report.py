"""Everything that a gate writes, rendered from its verdicts: check run, reports, ledger, JUnit, SARIF."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jinja2

import tritium
from tritium.bench.merge import ledger
from tritium.bench.merge.matrix import Criterion, confidence, criteria, decide
from tritium.bench.merge.pipeline import Outcome
from tritium.bench.merge.rules import Rules
from tritium.bench.merge.scope import Scope
from tritium.bench.merge.stages import Job, Stage, read_receipt
from tritium.bench.verdict import Decision, Word
from tritium.receipts.files import write_text

GATE = "integrative:gate:benchmarks"
MOST_TEXT = 65_535
"""Characters that a check run's text may have."""
CONCLUSIONS: Mapping[Word, str] = {
    "PASS": "success",
    "ATTENTION": "success",
    "FAIL": "failure",
    "INCONCLUSIVE": "neutral",
    "PENDING": "neutral",
    "NOT MEASURED": "neutral",
}
REPORTS = ("PERFORMANCE-VALIDATION-REPORT.md", "BENCHMARK-GATE-VALIDATION.md", "RUNNER-RECEIPT.md")
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # Markdown, whose cells are escaped by the filter below
)


def cell(value: object) -> str:
    """A value as the text of a table's cell."""
    return " ".join(str(value).split()).replace("|", "\\|") or "–"


_TEMPLATES.filters["cell"] = cell
_TEMPLATES.filters["quote"] = shlex.quote


@dataclass(frozen=True, slots=True)
class Account:
    """All that the reports of a pull request are rendered from."""

    number: int
    job: Job
    outcome: Outcome
    commit: str | None
    scope: Scope | None
    host: Sequence[tuple[str, str]]
    runner: str

    @property
    def rules(self) -> Rules:
        """The rules of the job."""
        return self.job.rules


def write_reports(account: Account, folder: Path) -> tuple[list[Path], Decision]:
    """Write all files into ``folder`` and return them with the decision. Errors: OSError; FormatError for a broken ledger."""
    decision = decide(account.outcome, account.rules)
    place = folder / "LEDGER.md"
    names = ["gate-benchmarks.json", *REPORTS, "LEDGER.md", "junit.xml", "results.sarif"]
    about = _context(account, decision, names)
    written = {name: render(name, about) for name in REPORTS}
    text = place.read_text(encoding="utf-8") if place.exists() else ledger.TEMPLATE.format(number=account.number)
    written["LEDGER.md"] = _ledger(text, account, decision)
    check = check_run(account, decision, written[REPORTS[0]])
    written["gate-benchmarks.json"] = json.dumps(check, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    written["junit.xml"] = junit(account.outcome)
    written["results.sarif"] = json.dumps(sarif(account.outcome), indent=2) + "\n"
    for name in names:
        write_text(folder / name, written[name])
    return [folder / name for name in names], decision


def render(name: str, about: Mapping[str, Any]) -> str:
    """A report from its template."""
    return _TEMPLATES.get_template(name).render(about)


def _context(account: Account, decision: Decision, files: Sequence[str]) -> dict[str, Any]:
    outcome = account.outcome
    receipt = read_receipt(account.job) if account.job.receipt.is_file() else None
    return {
        "number": account.number,
        "gate": GATE,
        "outcome": outcome,
        "stages": outcome.stages,
        "stage": {stage.name: stage for stage in outcome.stages},
        "figures": outcome.figures,
        "criteria": criteria(outcome, account.rules),
        "decision": decision,
        "confidence": confidence(outcome),
        "commit": account.commit,
        "scope": account.scope,
        "host": account.host,
        "runner": account.runner,
        "slo": account.rules.slo,
        "receipt": receipt,
        "model": account.job.model,
        "tokens": account.job.tokens,
        "base": account.job.base or "ci/baseline.json",
        "folder": account.job.folder,
        "files": files,
        "version": tritium.__version__,
    }


def check_run(account: Account, decision: Decision, text: str) -> dict[str, Any]:
    """A check run of GitHub's shape, with the evidence beside it."""
    outcome = account.outcome
    scope = account.scope
    rows = criteria(outcome, account.rules)
    return {
        "name": GATE,
        "head_sha": account.commit,
        "status": "completed",
        "started_at": outcome.started.isoformat(),
        "completed_at": outcome.ended.isoformat(),
        "conclusion": CONCLUSIONS[decision.word],
        "output": {
            "title": f"Benchmarks: {decision.word}",
            "summary": evidence_line(outcome, account.rules),
            "text": _cut(text),
        },
        "metadata": {
            "type": "gate",
            "gate": GATE,
            "pull_request": account.number,
            "base_sha": scope.base if scope is not None else None,
            "runner": account.runner,
            "authority": f"tritium {tritium.__version__}",
        },
        "validation": {stage.name: _stage(stage) for stage in outcome.stages},
        "metrics": {**outcome.figures, "confidence": confidence(outcome)},
        "criteria": [asdict(row) for row in rows],
        "scope": None if scope is None else {name: asdict(total) for name, total in scope.categories.items()},
        "decision": decision.as_json(),
    }


def _stage(stage: Stage) -> dict[str, Any]:
    return {**stage.decision.as_json(), "seconds": stage.seconds}


def _cut(text: str) -> str:
    if len(text) <= MOST_TEXT:
        return text
    note = "\n\n(cut: the whole text is in the report)\n"
    return text[: MOST_TEXT - len(note)] + note


def evidence_line(outcome: Outcome, rules: Rules) -> str:
    """The gate's figures in one line; what was not measured says so."""
    figures = outcome.figures
    words = {stage.name: stage.decision.word for stage in outcome.stages}

    def told(name: str, form: str) -> str:
        return form.format(figures[name]) if figures.get(name) is not None else "NOT MEASURED"

    return "; ".join(
        (
            f"inference:{told('prefill_ms', '{:.1f}ms-prefill')} (≤{rules.slo['latency_s']:g}s SLO: {words['latency']})",
            f"quantization:{told('accuracy_percent', '{:.2f}%')} {words['accuracy']}",
            f"compute_path:{told('compute_path', '{}')}",
            f"kernels:{told('kernels_count', '{}')}-{'registered' if figures.get('kernels_all_real') else 'unverified'}",
            f"regression:{words['baseline']}",
        )
    )


def _ledger(text: str, account: Account, decision: Decision) -> str:
    text = ledger.set_gate(text, "benchmarks", decision.word, evidence_line(account.outcome, account.rules))
    sentence = f"gate benchmarks {decision.word}, {confidence(account.outcome)}; next: {decision.figures['next']}"
    text = ledger.add_hop(text, account.runner, sentence)
    lines = [f"**{decision.word}** → {decision.figures['next']}", "", *(f"- {reason}" for reason in decision.reasons)]
    return ledger.set_decision(text, "\n".join(lines))


def junit(outcome: Outcome) -> str:
    """The stages as test cases; what was not measured is skipped."""
    words = [stage.decision.word for stage in outcome.stages]
    skipped = ("NOT MEASURED", "PENDING", "INCONCLUSIVE")
    suite = ElementTree.Element(
        "testsuite",
        name=outcome.gate,
        tests=str(len(words)),
        failures=str(words.count("FAIL")),
        skipped=str(sum(word in skipped for word in words)),
        timestamp=outcome.started.isoformat(),
    )
    for stage in outcome.stages:
        case = ElementTree.SubElement(
            suite, "testcase", classname=outcome.gate, name=stage.name, time=f"{stage.seconds or 0:.3f}"
        )
        message = "; ".join(stage.decision.reasons)
        if stage.decision.word == "FAIL":
            ElementTree.SubElement(case, "failure", message=message)
        elif stage.decision.word in skipped:
            ElementTree.SubElement(case, "skipped", message=f"{stage.decision.word}: {message}")
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def sarif(outcome: Outcome) -> dict[str, Any]:
    """SARIF 2.1.0: a result for each stage that did not pass."""
    levels: dict[Word, str] = {
        "FAIL": "error",
        "ATTENTION": "warning",
        "INCONCLUSIVE": "warning",
        "PENDING": "note",
        "NOT MEASURED": "note",
    }
    results = [
        {
            "ruleId": stage.name,
            "level": levels[stage.decision.word],
            "message": {"text": f"{stage.decision.word}: {'; '.join(stage.decision.reasons)}"},
        }
        for stage in outcome.stages
        if stage.decision.word in levels
    ]
    rules = [{"id": stage.name, "shortDescription": {"text": f"stage {stage.name}"}} for stage in outcome.stages]
    driver = {"name": f"tritium gate {outcome.gate}", "version": tritium.__version__, "rules": rules}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }


__all__ = [
    "GATE",
    "REPORTS",
    "Account",
    "Criterion",
    "check_run",
    "evidence_line",
    "junit",
    "render",
    "sarif",
    "write_reports",
]
