"""Check documentation: every claim of performance bound to evidence, commands, environment lines and links."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tritium.cli import json_option, print_json, program

if TYPE_CHECKING:
    from tritium.bench.claims import Claim
    from tritium.bench.docs_lint import Finding

DEFAULT = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs", "examples")


@click.command(short_help=__doc__)
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    help="The folder that paths of evidence start from. [default: the current one]",
)
@click.option("--fix", "do_fix", is_flag=True, help="Write the numbers that the evidence gives into the pages.")
@json_option
def command(paths: tuple[Path, ...], root: Path, do_fix: bool, as_json: bool) -> None:
    """Check the Markdown files PATHS, or all below a folder that git does not ignore; without PATHS the project's own.

    A claim of performance is a number with tok/s, GB/s and the like, or with ms, ×, %, MB in a sentence that speaks
    of performance. It must be followed by a comment that binds it, <!-- bound: FILE#FIELD speed=E2 -->, to a receipt
    in a dated folder of docs/baselines that the judge accepts at that level, and be equal to it after rounding; a
    limit is bound to a policy, a TOML file. Prints the inventory: file, line, claim, status. Commands must exist with
    their options and name their device, environment lines must be the standard ones, links must resolve. Exit 0:
    nothing to correct; 1: otherwise.
    """
    from tritium.bench.claims import check_claims, find_claims, fix
    from tritium.bench.docs_lint import lint
    from tritium.receipts.files import write_text

    places = paths or tuple(root / name for name in DEFAULT if (root / name).exists())
    options = _options()
    claims: list[Claim] = []
    findings: list[Finding] = []
    for page in _pages(places):
        text = page.read_text(encoding="utf-8")
        found = find_claims(page, text)
        check_claims(found, root)
        if do_fix and any(claim.status == "wrong" for claim in found):
            text = fix(text, found)
            write_text(page, text)
            found = find_claims(page, text)
            check_claims(found, root)
        claims += found
        findings += lint(page, text, root, options)
    if as_json:
        rows = [{"path": str(f.path), "line": f.line, "message": f.message} for f in findings]
        print_json({"claims": [claim.as_json() for claim in claims], "findings": rows})
    else:
        _print(claims, findings)
    click.get_current_context().exit(1 if findings or not all(claim.is_good for claim in claims) else 0)


def _pages(places: tuple[Path, ...]) -> Iterator[Path]:
    for place in places:
        yield from _below(place) if place.is_dir() else (place,)


def _below(folder: Path) -> list[Path]:
    """The pages below a folder but those that git ignores: what a measurement wrote is evidence, no claim."""
    pages = sorted(folder.rglob("*.md"))
    names = "".join(f"{page.resolve()}\0" for page in pages)
    command = ["git", "-C", str(folder), "check-ignore", "--stdin", "-z"]
    try:
        done = subprocess.run(command, input=names, capture_output=True, encoding="utf-8", check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return pages
    ignored = set(done.stdout.split("\0"))
    return [page for page in pages if str(page.resolve()) not in ignored]


def _options() -> dict[str, frozenset[str]]:
    """The options of every command, by its words."""
    root = click.Context(program, info_name="tritium")
    found: dict[str, frozenset[str]] = {}
    for name in program.list_commands(root):
        made = program.get_command(root, name)
        parts = {"": made} if made is not None else {}
        if isinstance(made, click.Group):
            parts |= made.commands
        for part, item in parts.items():
            names = {o for p in item.params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")}
            found[f"{name} {part}".strip()] = frozenset(names | {"--help", "-h"})
    return found


def _print(claims: list[Claim], findings: list[Finding]) -> None:
    for claim in claims:
        why = "" if claim.is_good else f"  {claim.why}"
        click.echo(f"{claim.path}:{claim.line}: {claim.text!r} {claim.status}{why}")
    for finding in findings:
        click.echo(f"{finding.path}:{finding.line}: {finding.message}")
    bad = sum(not claim.is_good for claim in claims)
    click.echo(f"{len(claims)} claims, {bad} to correct; {len(findings)} other findings")
