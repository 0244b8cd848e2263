"""benchmark sweep: speeds by the size of the work, in llama-bench's columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tritium.cli import weight_layout_option
from tritium.cli._measuring import choose_model, model_name, ternary_layout

Numbers = tuple[int, ...]
FORMS = click.Choice(["md", "csv", "json", "jsonl"])


def _numbers(least: int) -> Callable[[click.Context, click.Parameter, str | None], Numbers | None]:
    def read(_context: click.Context, parameter: click.Parameter, text: str | None) -> Numbers | None:
        if text is None:
            return None
        try:
            values = tuple(int(part) for part in text.split(","))
        except ValueError:
            raise click.BadParameter(
                f"expected numbers with commas between them, got {text!r}", param=parameter
            ) from None
        if min(values) < least:
            raise click.BadParameter(f"expected at least {least}, got {min(values)}", param=parameter)
        return tuple(dict.fromkeys(values))

    return read


def _pairs(_context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> list[tuple[int, int]]:
    pairs = []
    for text in texts:
        parts = text.split(",")
        if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
            raise click.BadParameter(f"expected PROMPT,GENERATED, got {text!r}", param=parameter)
        pairs.append((int(parts[0]), int(parts[1])))
    return pairs


@click.command()
@click.option("-m", "--model", help='A GGUF file, "demo", or "auto". [default: BITNET_GGUF, else demo]')
@click.option(
    "-p", "--n-prompt", default="128", show_default=True, callback=_numbers(0), help="Prompts of so many tokens."
)
@click.option("-n", "--n-gen", default="32", show_default=True, callback=_numbers(0), help="Generate so many tokens.")
@click.option(
    "-pg", multiple=True, metavar="P,N", callback=_pairs, help="A prompt and generation in one time; repeatable."
)
@click.option(
    "-d", "--n-depth", default="0", show_default=True, callback=_numbers(0), help="Behind a context of so many tokens."
)
@click.option(
    "-b", "--sequences", default="1", show_default=True, callback=_numbers(1), help="So many sequences at once."
)
@click.option(
    "-t", "--threads", callback=_numbers(1), help="So many threads. [default: TRITIUM_THREADS, else one a core]"
)
@click.option("-r", "--repetitions", type=click.IntRange(1), default=5, show_default=True, help="Rounds that count.")
@click.option(
    "-o",
    "--output",
    "form",
    type=FORMS,
    default="md",
    show_default=True,
    help="Format of the table.",
)
@click.option("--json", "form", flag_value="json", help="The same as -o json.")
@click.option("--output-file", type=click.Path(path_type=Path), help="Write it to this file, too.")
@click.option("--device", default="auto", show_default=True, help="auto or cpu.")
@click.option(
    "--i2s-layout", default="128", show_default=True, help="Block order of I2_S in the file: 128, 64 or 4row."
)
@click.option("--head-screen", default="auto", show_default=True, help="Screen the head: auto, on or off.")
@weight_layout_option
def sweep(
    n_prompt: Numbers, n_gen: Numbers, pg: list[tuple[int, int]], n_depth: Numbers, sequences: Numbers,
    threads: Numbers | None, repetitions: int, form: str, output_file: Path | None, **choice: Any,
) -> None:  # fmt: skip
    """Measure prompts (pp), generation (tg), both, several sequences at once, and all of that behind longer contexts.

    Where an option takes several numbers, put commas between them; every combination is measured. The columns, and -p -n -pg -d
    -t -r -o, are those of llama-bench. Tests take turns, so that a machine's drift meets all of them. No sampler takes part and
    no receipt is written.
    """
    from tritium import env
    from tritium.bench import sweep as sweeps
    from tritium.bench.host import fingerprint
    from tritium.engine.model import DEMO, load

    wanted = sweeps.tasks(n_prompt, n_gen, pg, n_depth, sequences)
    if not wanted:
        raise click.UsageError("nothing to measure: -p, -n or -pg above 0")
    choose_model(choice)
    choice["path"] = choice.pop("model") or env.model() or DEMO
    longest = max(task.n_positions for task in wanted)
    budget = sweeps.cache_bytes(choice["path"], choice["i2s_layout"], longest, max(sequences))
    records: list[dict[str, Any]] = []
    for n in threads or (None,):
        with load(threads=n, max_context=longest, kv_budget=budget, prefix_cache=False, **choice) as model:
            rows = sweeps.measure(model, wanted, repetitions=repetitions)
            of = sweeps.about(model, model_name(model), ternary_layout(model))
            records += sweeps.records(rows, of, fingerprint())
    text = sweeps.render(records, form)
    if output_file is not None:
        from tritium.receipts.files import write_text

        write_text(output_file, text)
    click.echo(text, nl=False)
