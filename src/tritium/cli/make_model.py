"""Write a synthetic model of a published model's shape, for benchmarks."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import click

from tritium.cli import json_option, note, print_json

SHAPE_NAMES = ("2b4t", "falcon3-1b", "falcon3-3b", "llama3-8b", "1bitllm-large", "1bitllm-3b", "tiny")


@click.command(short_help=__doc__)
@click.option("--shape", type=click.Choice(SHAPE_NAMES), required=True, help="Whose sizes the model has.")
@click.option("--layers", type=click.IntRange(1, 1024), help="Another number of layers. [default: the shape's]")
@click.option("--vocab", "vocabulary", type=Path, required=True, help="A GGUF file whose tokenizer is copied.")
@click.option(
    "--head", type=click.Choice(["f16", "q6_k"]), default="f16", show_default=True, help="Embedding and head."
)
@click.option("--layout", type=click.Choice(["i2s", "tq2_0", "tq1_0"]), default="i2s", show_default=True)
@click.option(
    "--architecture",
    type=click.Choice(["bitnet-b1.58", "bitnet"]),
    help="Name the graph of a bitnet shape otherwise: other engines know bitnet, which has SiLU.",
)
@click.option("--seed", type=click.IntRange(0, (1 << 64) - 1), default=0, show_default=True)
@click.option("--plain", is_flag=True, help="Pure noise: plant no statistics.")
@click.option(
    "--measure/--no-measure", default=True, show_default=True, help="Run 64 tokens and count what was planted."
)
@click.option("-o", "--output", type=Path, required=True, help="The file to write.")
@json_option
def command(
    shape: str,
    layers: int | None,
    vocabulary: Path,
    head: str,
    layout: str,
    architecture: str | None,
    seed: int,
    plain: bool,
    measure: bool,
    output: Path,
    as_json: bool,
) -> None:
    """Write a model with random weights, the sizes of a published one and the tokenizer of VOCAB.

    Unless --plain, the weights have statistics of trained ones: 42 % zero trits, 80 % zeros in front of the FFN's down
    projection (of a relu² graph), and a final hidden state with cosine 0.15 to the row of the best token. The same options give
    the same file on every machine.
    """
    from tritium.bench.planted import measure as measure_planted
    from tritium.bench.synthetic import SHAPES, Recipe, make_model
    from tritium.formats.gguf import open_gguf

    sizes = SHAPES[shape]
    if architecture is not None:
        if not sizes.sub_norms:
            raise click.UsageError(f"--architecture is for bitnet shapes; {shape} is a {sizes.architecture}")
        sizes = replace(sizes, architecture=architecture)
    recipe = Recipe(replace(sizes, n_layers=layers or sizes.n_layers), layout, head, seed, plain)
    with open_gguf(vocabulary) as source:
        written = make_model(recipe, source, output, _progress)
    facts = {
        "path": str(written.path),
        "shape": asdict(recipe.shape),
        "layout": layout,
        "head": head,
        "seed": seed,
        "plain": plain,
        "vocab_size": written.vocab_size,
        "ternary_weights": written.n_weights,
        "bytes": written.n_bytes,
        "zero_trits": written.zero_trits,
        "measured": None,
    }
    if measure:
        note("measuring on 64 random tokens")
        with open_gguf(output) as file:
            facts["measured"] = asdict(measure_planted(file))
    if as_json:
        print_json(facts)
        return
    click.echo(f"{output}: {written.n_weights:,} ternary weights, {written.n_bytes:,} bytes")
    click.echo(f"zero trits         {100 * written.zero_trits:.2f} %")
    if isinstance(facts["measured"], dict):
        click.echo(f"zeros before down  {100 * facts['measured']['zeros_before_down']:.2f} %")
        click.echo(f"top-row cosine     {facts['measured']['top_cosine']:.3f}")


def _progress(tensor: str) -> None:
    if tensor.endswith(".attn_norm.weight") or not tensor.startswith("blk."):
        note(f"writing {tensor.removesuffix('.attn_norm.weight').removesuffix('.weight')}")
