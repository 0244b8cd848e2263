"""Judge a change before it is merged: the gate of benchmarks, and the gates t1 to t7."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tritium import env
from tritium.cli import json_option, note, print_json

if TYPE_CHECKING:
    from tritium.bench.merge.pipeline import Outcome
    from tritium.bench.merge.rules import Rules
    from tritium.bench.merge.scope import Scope
    from tritium.bench.merge.stages import Job, Stage

FOLDER = Path("build/gates")


@click.group(short_help=__doc__)
def command() -> None:
    """Judge a change before it is merged.

    Every word, PASS, FAIL, ATTENTION, INCONCLUSIVE, NOT MEASURED or PENDING, is computed from what was measured; reports are
    rendered from the words. Exit 0: PASS or ATTENTION; 6: FAIL; 8: inconclusive, or something has not run.
    """


@command.command()
@click.option("--pr", "number", type=click.IntRange(1), required=True, help="Number of the pull request.")
@click.option("-m", "--model", help='A GGUF file, or "demo". [default: BITNET_GGUF, else demo]')
@click.option("--device", type=click.Choice(["auto", "cpu"]), default="auto", show_default=True, help="auto or cpu.")
@click.option("--threads", type=click.IntRange(1), help="Threads of the native core. [default: one a core]")
@click.option("--tokens", type=click.IntRange(2), default=128, show_default=True, help="Decode as many.")
@click.option(
    "--repeats", type=click.IntRange(2), default=2, show_default=True, help="Runs of the benchmark that count."
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Rounds of the interleaved stages, memory and simd.",
)
@click.option(
    "--base", type=click.Path(path_type=Path),
    help="What to compare with: a baseline set, a folder of them, or a release file. [default: ci/baseline.json]",
)  # fmt: skip
@click.option("--base-commit", default="main", show_default=True, help="Where the change begins.")
@click.option("--peers", type=click.Path(path_type=Path), help="Python of an environment with transformers.")
@click.option(
    "--rules", "rules_file", type=click.Path(path_type=Path), help="Limits and routes. [default: the shipped ones]"
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the reports. [default: ci/receipts/pr-N]")
@json_option
def benchmarks(
    number: int, model: str | None, device: str, threads: int | None, tokens: int, repeats: int, rounds: int, base: Path | None,
    base_commit: str, peers: Path | None, rules_file: Path | None, output: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Build, benchmark, verify, compare, check accuracy and service levels; write the reports of pull request N.

    Writes gate-benchmarks.json (a check run), PERFORMANCE-VALIDATION-REPORT.md, BENCHMARK-GATE-VALIDATION.md, RUNNER-RECEIPT.md,
    junit.xml and results.sarif, and edits LEDGER.md between its markers. Without a comparable baseline it ends with 8.
    """
    from tritium.bench.host import fingerprint, rows
    from tritium.bench.merge.pipeline import run_stages
    from tritium.bench.merge.report import GATE, Account, write_reports
    from tritium.bench.merge.scope import commit
    from tritium.bench.merge.stages import PIPELINE

    rules = _rules(rules_file)
    root = Path.cwd()
    job = _job(root, model, FOLDER / "benchmarks", rules, threads, tokens, repeats, rounds, base, peers)
    scope = _scope(root, base_commit, rules)
    outcome = run_stages(GATE, PIPELINE, job, told=_tell)
    account = Account(number, job, outcome, commit(root), scope, rows(fingerprint()), env.runner())
    files, decision = write_reports(account, output or Path(f"ci/receipts/pr-{number}"))
    _summarize(files[1].read_text(encoding="utf-8"))
    if as_json:
        print_json(json.loads(files[0].read_text(encoding="utf-8")))
    else:
        _print(outcome)
        click.echo(f"{decision.word} → {decision.figures['next']}")
        for file in files:
            click.echo(str(file))
    click.get_current_context().exit(decision.exit_code)


def _rules(file: Path | None) -> Rules:
    from tritium.bench.merge.rules import read_rules

    return read_rules(file)


def _job(
    root: Path, model: str | None, folder: Path, rules: Rules, threads: int | None = None, tokens: int = 128,
    repeats: int = 2, rounds: int = 3, base: Path | None = None, peers: Path | None = None,
) -> Job:  # fmt: skip
    from tritium.bench.merge.stages import Job
    from tritium.engine.model import DEMO, resolve_model

    name = model or env.model() or DEMO
    if not resolve_model(name).is_file():
        raise FileNotFoundError(2, "no such model", name)
    return Job(
        root, name if name == DEMO else str(Path(name).resolve()), (root / folder), rules, tokens, threads, repeats, rounds,
        base, None if peers is None else peers.absolute(),
    )  # fmt: skip


def _scope(root: Path, base: str, rules: Rules) -> Scope | None:
    from tritium.bench.merge.scope import read_scope
    from tritium.errors import UnsupportedError

    try:
        return read_scope(root, base, rules)
    except UnsupportedError as error:
        note(f"the change is not looked at: {error}")
        return None


def _tell(stage: Stage) -> None:
    note(f"{stage.name}: {stage.decision.word}, {'; '.join(stage.decision.reasons)}")


def _print(outcome: Outcome) -> None:
    for stage in outcome.stages:
        click.echo(f"{stage.name:<16}{stage.decision.word:<14}{'; '.join(stage.decision.reasons)}")


def _summarize(text: str) -> None:
    place = env.step_summary()
    if place is not None:
        with place.open("a", encoding="utf-8") as file:
            file.write(text)


def _tier(name: str, text: str) -> click.Command:
    """The command of one of the gates t1 to t7."""

    @click.command(name, help=f"{text}.", short_help=text)
    @click.option("-m", "--model", help='A GGUF file, or "demo". [default: BITNET_GGUF, else demo]')
    @json_option
    def run(model: str | None, as_json: bool) -> None:
        from tritium.bench.merge.pipeline import run_stages
        from tritium.bench.merge.tiers import TIERS, record, tool_versions
        from tritium.bench.verdict import EXIT_CODES
        from tritium.receipts.files import write_text

        rules = _rules(None)
        job = _job(Path.cwd(), model, FOLDER / name, rules)
        outcome = run_stages(name, TIERS[name][1], job, told=_tell)
        document = record(outcome, job.root, tool_versions())
        write_text(job.folder / "gate.json", json.dumps(document, indent=2) + "\n")
        lines = "\n".join(f"| {s.name} | {s.decision.word} | {'; '.join(s.decision.reasons)} |" for s in outcome.stages)
        _summarize(f"### Gate {name}: {outcome.word}\n\n| check | word | why |\n|---|---|---|\n{lines}\n")
        if name == "t5":
            _write_t5(outcome, job, rules, document)
        if as_json:
            print_json(document)
        else:
            _print(outcome)
            click.echo(outcome.word)
        click.get_current_context().exit(EXIT_CODES[outcome.word])

    return run


def _write_t5(outcome: Outcome, job: Job, rules: Rules, document: dict[str, Any]) -> None:
    from tritium.bench.merge.report import render
    from tritium.bench.merge.tiers import TIERS, outcome_of
    from tritium.receipts.files import write_text

    flow = (
        "policy" if any(s.decision.word == "FAIL" and s.name != "performance" for s in outcome.stages) else "benchmarks"
    )
    word = "INCONCLUSIVE" if outcome.word == "PENDING" else outcome.word
    gates = {name: f"current: {outcome.word}" if name == "t5" else outcome_of(name)(job, {}).word for name in TIERS}
    about = {
        "outcome": outcome,
        "stages": outcome.stages,
        "word": outcome.word,
        "metrics": outcome.figures.get("performance", {}),
        "gates": gates,
        "artifacts": sorted(str(p.relative_to(job.root)) for p in (job.root / "build/policy").glob("*") if p.is_file()),
        "tools": document["tools"],
        "next": rules.route(flow, word),
    }
    write_text(job.folder / "T5-REPORT.md", render("T5-REPORT.md", about))


for _name, _text in (
    ("t1", "Triage: format, lint, types, layers, build"),
    ("t2", "Features: back ends, instruction sets and extras of this machine"),
    ("t3", "Tests: the whole suite"),
    ("t4", "Safety: vulnerabilities, sanitizers, bounds of native code"),
    ("t5", "Policy and performance, with a report"),
    ("t6", "Documentation: claims, commands and links"),
    ("t7", "Readiness: the checklist and all other gates"),
):
    command.add_command(_tier(_name, _text))
