"""Time embedding, layers, head and sampling of a token, and write a timing receipt."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tritium.cli import json_option, note, print_json
from tritium.cli._generation import load_model, one_thread_model_options
from tritium.cli._measuring import choose_device, choose_model, model_name, prompt_ids, prompt_options, ternary_layout

if TYPE_CHECKING:
    from tritium.bench.timing import Timing
    from tritium.bench.timing_report import Setting
    from tritium.engine.model import Model

FOLDER = Path("docs/baselines/perf")


@click.command(short_help=__doc__)
@one_thread_model_options
@prompt_options
@click.option("-p", "--prompt", default="2+2=", show_default=True, help="The text to continue.")
@click.option(
    "-n",
    "--tokens",
    "--max-tokens",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Decode as many tokens.",
)
@click.option(
    "--iterations", type=click.IntRange(3), default=3, show_default=True, help="Runs of which medians are taken."
)
@click.option(
    "--output-dir", type=click.Path(path_type=Path), default=FOLDER, show_default=True, help="Where the receipt goes."
)
@json_option
def command(
    prompt: str, tokens: int, iterations: int, tokenizer: Path | None, output_dir: Path, as_json: bool, **options: Any
) -> None:
    """Decode a few tokens again and again and print microseconds a token by phase, with one thread by default.

    The receipt is two files, phase2_timing_LAYOUT.md to read and the same in JSON: medians, shares, every step's raw line, the
    host, the build and the source. Iterations that do not give the same tokens write none.
    """
    from tritium.bench import host, timing_report
    from tritium.bench.timing import timing

    choose_device(options)
    choose_model(options)
    options["threads"] = options["threads"] or 1
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with load_model(options, prefix_cache=False) as model:
        ids = prompt_ids(model, prompt, tokenizer)
        measured = timing(model, ids, tokens=tokens, iterations=iterations)
        setting = _setting(model, prompt, tokenizer, started)
    where = host.fingerprint()
    document = timing_report.document(measured, setting, where)
    called = f"tritium timing -m {shlex.quote(setting.model)} -n {tokens} --iterations {iterations} --threads {setting.n_threads}"
    path = _write(output_dir, setting.layout, document, timing_report.markdown(measured, setting, where, called))
    if as_json:
        print_json(document)
    else:
        _print(measured)
    note(f"timing receipt {path}")


def _setting(model: Model, prompt: str, tokenizer: Path | None, started: str) -> Setting:
    from tritium.bench.timing_report import Setting

    return Setting(
        model=model_name(model),
        model_sha256=model.file.sha256(),
        layout=ternary_layout(model),
        backend=model.plan.backend,
        n_threads=model.n_threads,
        plan_hash=model.plan_hash,
        prompt=prompt,
        tokenizer="the model's own" if tokenizer is None else str(tokenizer),
        started=started,
    )


def _write(folder: Path, layout: str, document: dict[str, Any], text: str) -> Path:
    import json

    from tritium.receipts.files import write_text

    path = folder / f"phase2_timing_{layout}.md"
    write_text(path.with_suffix(".json"), json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(path, text)
    return path


def _print(measured: Timing) -> None:
    from tritium.bench.timing import PHASES

    for line in measured.lines:
        click.echo(line)
    click.echo(f"\n{'phase':10}{'µs a token':>12}{'% of total':>12}{'prompt, µs':>12}")
    for phase in PHASES:
        click.echo(
            f"{phase:10}{measured.us[phase]:12.1f}{measured.percent[phase]:12.2f}{measured.prefill_us[phase]:12.1f}"
        )
    click.echo(f"{'total':10}{measured.total_us:12.1f}{100:12.2f}{measured.prefill_total_us:12.1f}")
    click.echo(f"\n{measured.tokens_per_second_total:.4g} tok/s, medians of {measured.iterations} iterations")
