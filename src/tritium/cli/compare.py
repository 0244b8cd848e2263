"""Tell whether the later of two builds, or of two sets of receipts, is slower."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tritium.cli import json_option, note
from tritium.cli._decision import finish, write_report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tritium.bench.figures import Sample


@click.command(short_help=__doc__)
@click.argument("receipts", nargs=-1, metavar="[BEFORE AFTER]", type=click.Path(path_type=Path))
@click.option("--base", "before", metavar="BUILD", help="The build before: a git revision, a wheel, or an interpreter.")
@click.option("--head", "after", metavar="BUILD", help="The build after, likewise. [default: this installation]")
@click.option(
    "--control", type=click.Path(path_type=Path), help="With BEFORE AFTER: more receipts of the build before."
)
@click.option("-m", "--model", default="demo", show_default=True, help='A GGUF file, or "demo".')
@click.option("--prompt", default="The capital of France is", show_default=True, help="What is continued, greedily.")
@click.option("--tokens", type=click.IntRange(2), default=128, show_default=True, help="Tokens to generate.")
@click.option(
    "--repeats", type=click.IntRange(1), default=5, show_default=True, help="Runs in each process; the fastest counts."
)
@click.option("--threads", type=int, help="Threads of the native core. [default: TRITIUM_THREADS, else one a core]")
@click.option("--pairs", type=click.IntRange(1), default=20, show_default=True, help="Rounds; a verdict needs 10.")
@click.option(
    "--seconds", type=click.IntRange(1), default=1800, show_default=True, help="No round begins that would end later."
)
@click.option(
    "--metric",
    type=click.Choice(["decode", "prefill", "cpu"]),
    default="decode",
    show_default=True,
    help="Time a decoded token; to the first token; of CPU a forwarded token, which neighbors disturb least.",
)
@click.option(
    "--policy",
    type=click.Choice(["pairs", "ratchet", "classic"]),
    help="[default: pairs; of receipts without a control, ratchet]",
)
@click.option(
    "--keep", type=click.Path(path_type=Path), help="Keep the receipts in this folder: before, after, control."
)
@click.option("--report", type=click.Path(path_type=Path), help="Write the decision as JSON to this file, too.")
@json_option
@click.pass_context
def command(
    context: click.Context, receipts: tuple[Path, ...], before: str | None, after: str | None, control: Path | None,
    model: str, prompt: str, tokens: int, repeats: int, threads: int | None, pairs: int, seconds: int, metric: str,
    policy: str | None, keep: Path | None, report: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Compare two builds on this machine, or two receipts or folders of receipts.

    With --base, both builds run by turns, each sample a fresh process that writes a receipt, the build before twice in each
    round: its difference from itself is the control. Exact gates come first: tokens, logits, work. Then the signed-rank test
    and the median of the pairs have to agree: from two hundredths slower on ATTENTION, from three FAIL (exit 6). INCONCLUSIVE
    (exit 8) where the noise leaves three possible, or the control fails. A revision is built with the tools of this environment.
    """
    from tritium.bench.figures import read_samples
    from tritium.bench.paired import judge_samples
    from tritium.bench.regression import POLICY_SHA256

    if (before is None) == (not receipts):
        raise click.UsageError("give either --base BUILD or the receipts BEFORE and AFTER")
    if receipts and len(receipts) != 2:
        raise click.UsageError(f"expected BEFORE and AFTER, got {len(receipts)} paths")
    samples: Mapping[str, Sequence[Sample]]
    if before is None:
        if after is not None or keep is not None:
            raise click.UsageError("--head and --keep need --base")
        places = {"before": receipts[0], "after": receipts[1], **({"control": control} if control else {})}
        samples = {arm: _by_time(read_samples([place])) for arm, place in places.items()}
        chosen = policy or ("pairs" if control else "ratchet")
        names = {arm: str(place) for arm, place in places.items()}
    else:
        if control is not None:
            raise click.UsageError("--control goes with BEFORE AFTER; --base measures its own")
        from tritium.bench.paired import Workload

        workload = Workload(model, prompt, tokens, repeats, threads)
        samples, names = _measure(before, after, workload, keep, pairs, seconds, metric)
        chosen = policy or "pairs"
    decision = judge_samples(samples, chosen, metric)
    more = {"policy": chosen, "policy_sha256": POLICY_SHA256, "metric": metric, "builds": names}
    write_report(decision, report, **more)
    finish(context, decision, as_json, **more)


def _by_time(samples: list[Sample]) -> list[Sample]:
    return sorted(samples, key=lambda sample: str(sample.receipt.get("timestamp", "")))


def _measure(
    before: str, after: str | None, workload: object, keep: Path | None, pairs: int, seconds: int, metric: str
) -> tuple[dict[str, list[Sample]], dict[str, str]]:
    """Build what has to be built and run the rounds."""
    from tritium.bench.builds import find_build, installed
    from tritium.bench.paired import Workload, run_rounds

    assert isinstance(workload, Workload)
    with tempfile.TemporaryDirectory(prefix="tritium-compare-") as name:
        folder = Path(name)
        note(f"building {before}")
        one = find_build(before, folder / "one", Path.cwd())
        other = installed() if after is None else find_build(after, folder / "two", Path.cwd())
        note(f"{one.name} against {other.name}")
        builds = {"before": one, "after": other, "control": one.copy(folder / "six" / "package")}
        samples = run_rounds(
            builds, workload, keep or folder / "receipts", n_pairs=pairs, metric=metric, budget_ns=seconds * 10**9,
            tell=note,
        )  # fmt: skip
    return samples, {"before": one.name, "after": other.name, "control": one.name}
