"""Judge receipts: what they prove, claim by claim."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tritium.cli import json_option, print_json
from tritium.cli._binding import Binding, binding_options, receipt_in
from tritium.errors import FormatError
from tritium.receipts.files import read_document

if TYPE_CHECKING:
    from collections.abc import Callable

    from tritium.gates import Check, Policy, Verdict

    Look = Callable[[dict[str, Any], Path], list[Check]]

DEFAULT = Path("ci/inference.json")
REJECTED, UNREADABLE = 1, 3


@click.command(short_help=__doc__)
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option(
    "--path", "named", type=click.Path(path_type=Path), help="The same, as an option. [default: ci/inference.json]"
)
@click.option("--require", default="", metavar="CLAIM=LEVEL,…", help="Levels to be reached, as speed=E3,kernels=E3.")
@click.option(
    "--require-gpu-kernels", is_flag=True, help="Refuse a receipt without a GPU kernel, whatever its back end."
)
@click.option(
    "--policy",
    "policy_file",
    type=click.Path(path_type=Path),
    help="Thresholds and claims. [default: the shipped ones]",
)
@click.option(
    "--baseline",
    "baseline_file",
    type=click.Path(path_type=Path),
    metavar="SET",
    help="Hold result and speed against this set of receipts, a file of tritium baseline add.",
)
@click.option(
    "--replay", "is_replayed", is_flag=True, help="Run it again and compare the bits; E5 in --require implies it."
)
@click.option(
    "-m", "--model", type=click.Path(path_type=Path), help="For a replay: the model, matched by hash. [default: demo]"
)
@click.option(
    "--replay-backend",
    type=click.Choice(["native", "reference"]),
    default="native",
    show_default=True,
    help="What replays: the native core or the NumPy reference, slow and independent of it.",
)
@binding_options
@json_option
def command(
    path: Path | None,
    named: Path | None,
    require: str,
    require_gpu_kernels: bool,
    policy_file: Path | None,
    baseline_file: Path | None,
    is_replayed: bool,
    model: Path | None,
    replay_backend: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Judge the receipt at PATH, or every *.json file in the folder PATH and below.

    Claims are output, model, kernels, speed, determinism and provenance; each stands at a level of its own: E0 well-formed, E1
    self-consistent, E2 physically possible, E3 accounted to the last multiply-accumulate. A failed check rejects the
    receipt; one that cannot be decided only caps the level. The receipts of a folder are compared, too. Exit 0: accepted;
    1: rejected; 8: nothing failed, but a required level was not reached; 3: not found or not readable. Of a folder the worst
    counts: 1, then 3, then 8. Nothing that a receipt names is opened.

    A replay forwards prompt and tokens again, chooses each token anew, and compares tokens, trace root and last logits, bit by
    bit: E5 of output and determinism. Its model is the one of --model, if that has the receipt's hash. A run by another numeric
    profile cannot give the same bits: its tokens are followed, and have to be first choices, or all but. E5 of output, only.

    A signed receipt is opened with the keys of --trust. Provenance stands at E4 if the run was announced in a log before
    it and registered after it, and answers what --nonce, --commit and --max-age ask for.
    """
    from tritium.gates import compare, parse_requirements, read_policy, worst

    if path is not None and named is not None:
        raise click.UsageError("PATH and --path exclude each other")
    binding = Binding(**options)
    place = path or named or DEFAULT
    policy = read_policy(policy_file)
    try:
        required = parse_requirements(require, policy)
    except FormatError as error:
        raise click.UsageError(str(error)) from None
    is_folder = place.is_dir()
    files = sorted(file for file in place.rglob("*.json") if not file.is_dir()) if is_folder else [place]
    if is_folder and binding.verdict_key is not None:
        raise click.UsageError("--sign-verdict signs the verdict of one receipt")
    if not files:
        raise FileNotFoundError(2, "no *.json file in this folder", str(place))
    is_replayed = is_replayed or "E5" in required.values() or "E6" in required.values()
    if model is not None and not is_replayed:
        raise click.UsageError("--model needs --replay")
    unreadable = [file for file in files if is_folder and not _is_readable(file)]
    read = {file: read_document(file) for file in files if file not in unreadable}

    further = _further(baseline_file, is_replayed, model, replay_backend, policy)

    def judge(data: bytes, checks: list[Check]) -> Verdict:
        return binding.judge(data, policy, required, gpu_required=require_gpu_kernels, replayed=checks)

    verdicts = [(file, _judge(file, data, judge, further)) for file, data in read.items()]
    if is_folder:
        together = list(compare([*read.values()], [str(file) for file in read], policy))
        _print_folder(verdicts, unreadable, together, as_json=as_json)
    else:
        together = []
        _print_one(place, verdicts[0][1], as_json=as_json)
        binding.sign(read[place], verdicts[0][1])
    codes = {verdict.exit_code for _, verdict in verdicts} | ({UNREADABLE} if unreadable else set())
    codes |= {REJECTED for check in together if check.status == "FAIL"}
    click.get_current_context().exit(worst(codes))


def _further(
    baseline_file: Path | None, is_replayed: bool, model: Path | None, backend: str, policy: Policy
) -> list[Look]:
    """What takes more than the receipt: a set to hold it against, a model to run again. Errors: those of the set."""
    looks: list[Look] = []
    if baseline_file is not None:
        from tritium.bench.baseline import baseline_check, read_set
        from tritium.bench.figures import sample_of
        from tritium.receipts import jcs

        baseline = read_set(baseline_file)
        looks.append(lambda receipt, file: [baseline_check(baseline, sample_of(jcs.canonical(receipt), file))])
    if is_replayed:
        from tritium.evidence.replay import replay_checks

        looks.append(lambda receipt, _file: replay_checks(receipt, model, backend, policy))
    return looks


def _judge(file: Path, data: bytes, judge: Callable[[bytes, list[Check]], Verdict], further: list[Look]) -> Verdict:
    """Judge one, and look further where nothing has failed."""
    verdict = judge(data, [])
    if verdict.failed or not further:
        return verdict
    receipt = receipt_in(data)
    return judge(data, [check for look in further for check in look(receipt, file)])


def _is_readable(file: Path) -> bool:
    """False for what nobody can read, or may wait for without end."""
    return file.is_file() and os.access(file, os.R_OK)


def _print_one(place: Path, verdict: Verdict, *, as_json: bool) -> None:
    if as_json:
        print_json({"path": str(place), **verdict.as_json()})
    else:
        click.echo("\n".join(verdict.lines()))


def _print_folder(
    verdicts: list[tuple[Path, Verdict]], unreadable: list[Path], together: list[Check], *, as_json: bool
) -> None:
    """A line a file: the verdict, the levels, what failed first; then what is wrong with all of them together."""
    from tritium.gates import printable

    if as_json:
        documents: list[dict[str, Any]] = [{"path": str(file), **verdict.as_json()} for file, verdict in verdicts]
        documents += [{"path": str(file), "verdict": "unreadable"} for file in unreadable]
        print_json({"receipts": documents, "together": [check.as_json() for check in together]})
        return
    for file, verdict in verdicts:
        levels = " ".join(f"{claim.name}={claim.level or '–'}" for claim in verdict.claims)
        failed = verdict.failed
        why = f"  {', '.join(check.id for check in failed)}: {failed[0].hint}" if failed else ""
        click.echo(printable(f"{verdict.word:<13}{file}  {levels}{why}"))
    for file in unreadable:
        click.echo(printable(f"{'unreadable':<13}{file}"))
    for check in together:
        if check.status == "FAIL":
            line = f"FAIL {check.level} {check.id}: got {check.value}, expected {check.bound}. {check.hint}"
            click.echo(printable(line))
