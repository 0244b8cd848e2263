"""Keep sets of receipts to be held against: add, list, compare, promote."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tritium.cli import json_option, note, print_json
from tritium.cli._decision import finish

if TYPE_CHECKING:
    from tritium.bench.baseline import Baseline
    from tritium.bench.figures import Sample

directory_option = click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default=Path("docs/baselines"),
    show_default=True,
    help="Folder of dated baselines.",
)
release_option = click.option(
    "--release",
    type=click.Path(path_type=Path),
    default=Path("ci/baseline.json"),
    show_default=True,
    help="File that names the released baselines.",
)


@click.group(short_help=__doc__)
def command() -> None:
    """Keep sets of receipts to be held against.

    A baseline is a set of five receipts or more that the judge accepts, of one key (system, machine, instruction set, threads,
    model, workload) and one clean commit. The judge reads receipts again whenever a set is read. Verdicts are PASS and ATTENTION
    (exit 0), FAIL (6), INCONCLUSIVE (8: nothing comparable, or noise).
    """


def _parity(model: str, backend: str, samples: list[Sample]) -> dict[str, Any]:
    """Replay the first receipt's tokens on this model, if it is the same. Errors: GateError if other tokens come out."""
    if backend == "none" or not samples or "evidence" not in samples[0].receipt:
        return {"status": "NOT MEASURED", "backend": None}
    from tritium.bench.parity import replay

    return replay(model, backend, samples[0].receipt)


@command.command("add")
@click.argument("receipts", nargs=-1, required=True, type=click.Path(path_type=Path))
@directory_option
@click.option(
    "-m", "--model", default="demo", show_default=True, help="Model to replay on, if it is the receipts' own."
)
@click.option(
    "--parity",
    type=click.Choice(["cpu", "reference", "none"]),
    default="cpu",
    show_default=True,
    help="Back end that has to give the same tokens and logits again.",
)
@json_option
def add(receipts: tuple[Path, ...], directory: Path, model: str, parity: str, as_json: bool) -> None:
    """Make sets of RECEIPTS, files or folders, and write them to a folder of today's date."""
    from tritium.bench.baseline import collect, write_set
    from tritium.bench.figures import digits, read_samples

    samples = read_samples(receipts)
    now = datetime.now(UTC)
    documents = collect(samples, _parity(model, parity, samples), now)
    paths = [write_set(document, samples, directory) for document in documents]
    if as_json:
        print_json([{"path": str(path), **document} for path, document in zip(paths, documents, strict=True)])
        return
    for path, document in zip(paths, documents, strict=True):
        speed = document["performance"]["tokens_per_second"]
        click.echo(
            f"{path}: {speed['n']} receipts, {digits(speed['median'])} tok/s, parity {document['parity']['replay']['status']}"
        )


@command.command("list")
@directory_option
@click.option("--commit", help="Only sets of the commit that begins so.")
@json_option
def list_sets(directory: Path, commit: str | None, as_json: bool) -> None:
    """Show the sets of the archive, the oldest first, and dated single receipts."""
    from tritium.bench.baseline import archive, is_set, read_set
    from tritium.bench.figures import digits, read_sample

    rows: list[dict[str, Any]] = []
    for path in archive(directory):
        if is_set(path):
            document = read_set(path).document
            figures = {name: s and s["median"] for name, s in document["performance"].items()}
            rows.append(
                {"path": str(path), "date": document["date"], "commit": document["commit"], "n": len(document["receipts"]),
                 "key": document["key"], "verdict": "accepted", **figures}
            )  # fmt: skip
        elif commit is None:
            sample = read_sample(path)
            verdict = "accepted" if sample.problem is None else sample.problem
            rows.append(
                {
                    "path": str(path),
                    "n": 1,
                    "verdict": verdict,
                    "tokens_per_second": sample.receipt.get("tokens_per_second"),
                }
            )
    rows = [row for row in rows if commit is None or row["commit"].startswith(commit)]
    if as_json:
        print_json(rows)
        return
    if not rows:
        note(f"no baseline in {directory}")
    for row in rows:
        speed = row["tokens_per_second"]
        told = f"{digits(speed)} tok/s" if isinstance(speed, (int, float)) else "no speed"
        click.echo(
            f"{row['path']}  {row['n']} receipts  {told}  {row.get('commit', '')[:12]}  {row['verdict']}".rstrip()
        )


@command.command("compare")
@click.argument("receipts", nargs=-1, type=click.Path(path_type=Path))
@directory_option
@release_option
@click.option(
    "--policy",
    type=click.Choice(["ratchet", "classic", "envelope"]),
    default="ratchet",
    show_default=True,
    help="ratchet: against the released set, else the newest; classic: FAIL below 0.95 of the released speed, ATTENTION "
    "from 1.1; envelope: documented bands of 2-billion-weight models.",
)
@json_option
@click.pass_context
def compare(
    context: click.Context, receipts: tuple[Path, ...], directory: Path, release: Path, policy: str, as_json: bool
) -> None:
    """Hold RECEIPTS, files or folders, against their baseline. [default: ci/inference.json]"""
    from tritium.bench.baseline import judge_receipts, read_release
    from tritium.bench.figures import read_samples
    from tritium.bench.regression import POLICY_SHA256
    from tritium.bench.verdict import together

    samples = read_samples(receipts or (Path("ci/inference.json"),))
    entries = read_release(release) if release.exists() else []
    baselines = _candidates(directory, [entry.set_path for entry in entries]) if policy == "ratchet" else []
    groups: dict[object, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.key, []).append(sample)
    decision = together(judge_receipts(group, baselines, entries, policy) for group in groups.values())
    finish(context, decision, as_json, policy=policy, policy_sha256=POLICY_SHA256)


def _candidates(directory: Path, released: list[Path | None]) -> list[Baseline]:
    """All sets, the oldest first, the released ones last: the last one of a key counts."""
    from tritium.bench.baseline import archive, is_set, read_set

    chosen = [path for path in released if path is not None]
    others = [path for path in archive(directory) if is_set(path) and path not in chosen] if directory.is_dir() else []
    return [read_set(path) for path in [*others, *chosen]]


@command.command("promote")
@click.argument("baseline", type=click.Path(path_type=Path))
@release_option
@click.option(
    "--reason", metavar="TEXT", help="Why a slower set, or one that is faster by a tenth, is promoted; recorded."
)
@json_option
@click.pass_context
def promote_set(context: click.Context, baseline: Path, release: Path, reason: str | None, as_json: bool) -> None:
    """Make the set in the file BASELINE the released one of its key. The ratchet only goes up."""
    from tritium.bench.baseline import promote, read_set

    decision = promote(read_set(baseline), release, reason=reason, moment=datetime.now(UTC))
    finish(context, decision, as_json)
