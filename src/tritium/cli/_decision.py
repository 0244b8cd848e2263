"""Print a decision about speed and end with its exit code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tritium.cli import print_json

if TYPE_CHECKING:
    from tritium.bench.verdict import Decision

STYLES = {"PASS": "green", "ATTENTION": "yellow", "FAIL": "red", "INCONCLUSIVE": "yellow"}


def finish(context: click.Context, decision: Decision, as_json: bool, **more: Any) -> None:
    """Print the word and its reasons, or all of it as JSON with ``more`` beside it, and exit with the word's code."""
    if as_json:
        print_json({**decision.as_json(), **more})
    else:
        click.secho(decision.word, fg=STYLES.get(decision.word), bold=True)
        for reason in decision.reasons:
            click.echo(f"  {reason}")
    context.exit(decision.exit_code)


def write_report(decision: Decision, path: Path | None, **more: Any) -> None:
    """Write a decision as JSON to a file, whole or not at all. Errors: OSError."""
    from tritium.bench.baseline import write_json

    if path is not None:
        write_json({**decision.as_json(), **more}, path)
