"""Print the plan of a model: every step with its kernel, multiply-accumulates and bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tritium.cli import json_option, kv_option, print_json, weight_layout_option

if TYPE_CHECKING:
    from tritium.backends.tuning import Times
    from tritium.ir import Plan


@click.command(short_help=__doc__)
@click.argument("model")
@click.option("--device", default="auto", show_default=True, help="auto or cpu.")
@click.option("--backend", help="Plan for this back end: cpu, reference or null.")
@click.option("--max-context", type=int, help="Tokens of a sequence. [default: the model's]")
@click.option("--tokens", type=click.IntRange(1), default=1, show_default=True, help="Tokens of the step to be costed.")
@click.option(
    "--kv-len", type=click.IntRange(1), default=1, show_default=True, help="Positions that each of them sees."
)
@click.option("--head-screen", default="auto", show_default=True, help="auto, on or off: as for run.")
@click.option("--ffn-sparsity", default="auto", show_default=True, help="auto, on or off: as for run.")
@weight_layout_option
@kv_option
@json_option
def command(
    model: str,
    device: str,
    backend: str | None,
    max_context: int | None,
    tokens: int,
    kv_len: int,
    head_screen: str,
    ffn_sparsity: str,
    weight_layout: str,
    kv: str,
    as_json: bool,
) -> None:
    """Print the plan of MODEL, a GGUF file or "demo": what runs, in order, without loading its weights.

    Layers that are alike are printed once. The graph hash is what the model means and the same on every machine; the plan hash
    adds the kernels chosen here.
    """
    from tritium import backends
    from tritium.backends.tuning import described
    from tritium.engine.model import resolve_model
    from tritium.formats.gguf import open_gguf
    from tritium.graph import with_cache
    from tritium.models import build_graph
    from tritium.plan import make_plan
    from tritium.plan_view import describe, to_json

    with open_gguf(resolve_model(model)) as file:
        graph = with_cache(build_graph(file), kv)
    chosen = backends.find_tuned(backends.resolve(device, backend), None)
    plan = make_plan(
        graph, chosen, max_context=max_context, head_screen=head_screen, ffn_sparsity=ffn_sparsity, weight_layout=weight_layout
    )  # fmt: skip
    times = _times(plan)
    if as_json:
        print_json({**to_json(plan, tokens, kv_len), "weight_layout_ns": times})
        return
    click.echo(describe(plan, tokens, kv_len))
    for line in described(times):
        click.echo(f"timed here: {line}")


def _times(plan: Plan) -> dict[str, Times]:
    """What is known of this machine's times of the plan's products."""
    if plan.backend != "cpu":
        return {}
    from tritium.backends.cpu import default_threads, tuner

    shapes = {f"{step.attrs['n']:.0f}x{step.attrs['k']:.0f}" for step in plan.steps if step.op == "linear"}
    return {shape: times for shape, times in tuner(default_threads()).known.items() if shape in shapes}
