"""Draw where the time of a model's tokens goes, as flame graphs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tritium import env
from tritium.cli import json_option, note, print_json
from tritium.cli._generation import load_model, one_thread_model_options
from tritium.cli._measuring import (
    choose_device,
    choose_model,
    model_name,
    prompt_ids,
    prompt_options,
    ternary_layout,
)

if TYPE_CHECKING:
    from tritium.bench.flame import Stack
    from tritium.bench.flame_report import Graph
    from tritium.bench.host import Host
    from tritium.bench.timing import Passes
    from tritium.engine.model import Model

FOLDER = Path("docs/baselines/perf")
ROOT = "tritium"


class _Flamegraph(click.Group):
    """The drawing itself, and the comparison of two."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None:
            raise click.UsageError(f"unexpected {args[0]!r}: the model goes after -m", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Flamegraph, invoke_without_command=True, short_help=__doc__)
@one_thread_model_options
@prompt_options
@click.option("-p", "--prompt", default="2+2=", show_default=True, help="The text to continue.")
@click.option(
    "-n", "--tokens", "--max-tokens", type=click.IntRange(1), multiple=True, default=(1, 10), show_default=True,
    help="Decode as many tokens; a graph for each.",
)  # fmt: skip
@click.option(
    "--iterations",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Runs, of which the one in the middle is drawn.",
)
@click.option(
    "--tool", help="Draw what a profiler sees, too: perf or py-spy. [default: BITNET_FLAMEGRAPH_TOOL, else builtin]"
)
@click.option(
    "--seconds", type=click.FloatRange(0.1, 600), default=3.0, show_default=True, help="How long a profiler samples."
)
@click.option(
    "--output-dir", type=click.Path(path_type=Path), default=FOLDER, show_default=True, help="Where everything goes."
)
@json_option
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Decode 1 and 10 tokens with one thread, and draw the time that the executor counted in every kernel and layer.

    flamegraphs/phase2_1tok and phase2_10tok: an SVG to hover and zoom in a browser, collapsed stacks, a speedscope file, and the
    metadata in Markdown; beside them a README, the guide FLAMEGRAPH_README.md and BUILD_SUMMARY.md. No profiler is needed.

    -m auto takes BITNET_GGUF, else the first file in models/microsoft-bitnet-b1.58-2B-4T-gguf, models or here.
    """
    if context.invoked_subcommand is None:
        _draw(**options)


def _draw(
    *, prompt: str, tokens: tuple[int, ...], iterations: int, tokenizer: Path | None, tool: str | None, seconds: float,
    output_dir: Path, as_json: bool, **model_choice: Any,
) -> None:  # fmt: skip
    from tritium.bench import flame_report
    from tritium.bench.host import fingerprint
    from tritium.receipts.files import write_text

    choose_device(model_choice)
    choose_model(model_choice)
    sampler = _choose_tool(tool or env.flamegraph_tool() or "builtin")
    model_choice["threads"] = model_choice["threads"] or 1
    where = fingerprint()
    pictures = output_dir / "flamegraphs"
    graphs: list[Graph] = []
    with load_model(model_choice, prefix_cache=False) as model:
        ids = prompt_ids(model, prompt, tokenizer)
        for n in dict.fromkeys(tokens):
            runs = _runs(model, ids, n, iterations)
            sampled = _sampled(model, ids, n, sampler, seconds, pictures)
            graphs.append(_write(model, runs, n, prompt, len(ids), where, sampled, pictures))
    write_text(pictures / "README.md", flame_report.index(graphs))
    write_text(output_dir / "FLAMEGRAPH_README.md", flame_report.guide(graphs[-1].name))
    write_text(output_dir / "BUILD_SUMMARY.md", flame_report.build_summary(where, graphs[0].command))
    if as_json:
        print_json({"folder": str(pictures), "graphs": [asdict(graph) for graph in graphs]})
    else:
        for graph in graphs:
            click.echo(f"{pictures / graph.name}.svg  {graph.total_ns / 1e6:.4g} ms")


def _choose_tool(name: str) -> str | None:
    """A sampler that works, or None for the executor's counters alone; what is in the way is said."""
    from tritium.bench.samplers import check

    ability = check(name)
    if ability.works:
        return None if name == "builtin" else name
    fix = f" To change that: {ability.fix}" if ability.fix else ""
    note(f"{name} cannot be used: {ability.why}.{fix}")
    note("the built-in flame graph is drawn instead")
    return None


def _runs(model: Model, ids: Sequence[int], n: int, iterations: int) -> list[Passes]:
    """Runs after one that does not count, by their time. Errors: NumericsError if they do not give the same tokens."""
    from tritium.bench.timing import follow
    from tritium.errors import NumericsError

    follow(model, ids, n)
    runs = [follow(model, ids, n) for _ in range(iterations)]
    if len({run.token_ids for run in runs}) != 1:
        raise NumericsError("the runs give different tokens", expected="equal ones")
    return sorted(runs, key=lambda run: sum(done.step_ns + done.rest_ns for done in (*run.prefill, *run.decode)))


def _sampled(model: Model, ids: Sequence[int], n: int, tool: str | None, seconds: float, folder: Path) -> list[str]:
    """Draw what a sampler sees of the same work, again and again; lines for the metadata."""
    from tritium.bench import flame, flame_svg, samplers
    from tritium.engine.sampling import SamplingParams
    from tritium.errors import UnsupportedError
    from tritium.receipts.files import write_text

    if tool is None:
        return []
    params = SamplingParams(max_tokens=n + 1, seed=42, ignore_eos=True)
    try:
        stacks = samplers.sample(tool, lambda: model.generate(list(ids), params), seconds)
    except UnsupportedError as error:
        note(f"{error}; the built-in flame graph is drawn all the same")
        return []
    name = f"phase2_{n}tok.{tool}"
    root = flame.tree([flame.Stack((ROOT, *s.names), s.ns, s.kind) for s in stacks], ROOT)
    picture = flame_svg.Picture(f"What {tool} sees: {n} tokens, again and again",
                                [f"{model_name(model)} · {root.ns:,} samples in {seconds:g} s"], "", "samples")  # fmt: skip
    write_text(
        folder / f"{name}.svg",
        flame_svg.draw(root, picture, flame_svg.by_kind(root, "samples"), flame_svg.kinds_in(root)),
    )
    write_text(folder / f"{name}.collapsed", flame.collapsed(stacks))
    return [f"`{name}.svg`, `{name}.collapsed`: what {tool} saw of the same work in {seconds:g} s, in samples."]


def _write(
    model: Model,
    runs: list[Passes],
    n: int,
    prompt: str,
    n_prompt: int,
    where: Host,
    beside: Sequence[str],
    folder: Path,
) -> Graph:
    """Write the files of one graph: of the runs, the one in the middle."""
    from tritium.bench import flame, flame_report, flame_svg, speedscope
    from tritium.receipts.files import write_text

    run = runs[len(runs) // 2]
    stacks = [
        stack
        for phase in ("prefill", "decode")
        for stack in flame.stacks_of(getattr(run, phase), model.plan, phase, ROOT)
    ]
    root = flame.tree(stacks, ROOT)
    decode_ns = sum(done.step_ns + done.rest_ns for done in run.decode)
    graph = flame_report.Graph(
        name=f"phase2_{n}tok",
        model=model_name(model),
        model_sha256=model.file.sha256(),
        layout=ternary_layout(model),
        backend=model.plan.backend,
        n_threads=model.n_threads,
        prompt=prompt,
        prompt_tokens=n_prompt,
        tokens=n,
        iterations=len(runs),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=f"tritium flamegraph -m {shlex.quote(model_name(model))} --tokens {n} --threads {model.n_threads}",
        svg_bytes=0,
        total_ns=root.ns,
    )
    svg = flame_svg.draw(root, _around(graph, where, decode_ns), flame_svg.by_kind(root), flame_svg.kinds_in(root))
    graph = flame_report.sized(graph, len(svg.encode()))
    timeline = _timeline(model, run)
    write_text(folder / f"{graph.name}.svg", svg)
    write_text(folder / f"{graph.name}.collapsed", flame.collapsed(stacks))
    scope = speedscope.document(f"{graph.model}, {n} tokens", stacks, timeline)
    write_text(folder / f"{graph.name}.speedscope.json", json.dumps(scope, separators=(",", ":")) + "\n")
    write_text(folder / f"{graph.name}.md", flame_report.metadata(graph, stacks, where, beside))
    return graph


def _around(graph: Graph, where: Host, decode_ns: int) -> Any:
    from tritium.bench.flame_svg import Picture, amount

    plural = "" if graph.tokens == 1 else "s"
    threads = f"{graph.n_threads} thread{'' if graph.n_threads == 1 else 's'}"
    source = "" if where.source is None else f" · {where.source.commit[:12]}{'+' if where.source.is_dirty else ''}"
    return Picture(
        f"{amount(decode_ns / graph.tokens)} a token: {graph.model}, {graph.layout}",
        [
            f"a prompt of {graph.prompt_tokens} tokens and {graph.tokens} decoded token{plural}, {amount(graph.total_ns)} in all",
            f"{graph.backend}, {where.isas[0]}, {threads} · {where.machine.cpu or 'unknown CPU'} · {graph.started[:10]}",
        ],
        f"counted by the executor of tritium {where.version}{source}",
    )


def _timeline(model: Model, run: Passes) -> list[list[Stack]]:
    """The stacks of each step in its order, each token a frame of its own."""
    from dataclasses import replace

    from tritium.bench.flame import stacks_of

    steps = []
    for phase in ("prefill", "decode"):
        for i, done in enumerate(getattr(run, phase)):
            made = stacks_of([done], model.plan, phase, ROOT)
            steps.append([replace(s, names=(*s.names[:2], f"step {i + 1}", *s.names[2:])) for s in made])
    return steps


@command.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("flamegraph-diff.svg"), show_default=True,
    help="Write the picture to this file.",
)  # fmt: skip
@click.option(
    "--normalize", is_flag=True, help="Scale the first to the total of the second: compare shares, not times."
)
@click.option("--unit", default="ns", show_default=True, help="What the numbers in the files count.")
@json_option
def diff(before: Path, after: Path, output: Path, normalize: bool, unit: str, as_json: bool) -> None:
    """Compare two files of collapsed stacks: AFTER's flame graph, red where it took longer than BEFORE, blue where less.

    The frames that changed most are printed. It is a hint where to look, not a verdict: for that, compare interleaved runs.
    """
    from tritium.bench.flame import parse_collapsed
    from tritium.bench.flame_diff import compare, lines, picture
    from tritium.bench.flame_svg import Picture, amount
    from tritium.receipts.files import write_text

    first, second = (parse_collapsed(path.read_text(encoding="utf-8"), str(path)) for path in (before, after))
    root, rows = compare(first, second, normalize=normalize)
    totals = [sum(stack.ns for stack in stacks) for stacks in (first, second)]
    change = f"{amount(totals[0], unit)} → {amount(totals[1], unit)}, {100 * (totals[1] / totals[0] - 1):+.1f} %"
    scaled = ["the first is scaled to the second's total"] if normalize else []
    around = Picture(
        f"Difference: {change}", [f"{before} → {after}", *scaled], "width: the second; color: the change", unit
    )
    write_text(output, picture(root, rows, around))
    if as_json:
        print_json({"before": totals[0], "after": totals[1], "unit": unit, "normalized": normalize,
                    "frames": [{**asdict(row), "change_ns": row.change_ns} for row in rows]})  # fmt: skip
        return
    click.echo(change)
    for line in lines(rows, 10, unit):
        click.echo(line)
    note(f"picture {output}")
