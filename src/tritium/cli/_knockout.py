"""benchmark --knockout: what changes when a kernel does nothing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tritium.cli import print_json
from tritium.cli._generation import load_model
from tritium.cli._measuring import choose_device, prompt_ids


def print_knockout(
    *, tokens: int, texts: tuple[str, ...], prompt_tokens: int | None, sequences: int | None, tokenizer: Path | None,
    as_json: bool, warmup_tokens: int,
    repeats: int, temperature: float, seed: int | None, output: Path, report: Path | None, show_output: bool,
    allow_mock: bool, **model_choice: Any,
) -> None:  # fmt: skip
    """Knock out each kernel of a greedy run; print what changed. Exit 1 if nothing did for one of them."""
    from tritium.bench.benchmark import prompt_of
    from tritium.evidence.knockout import knock_out

    if temperature or report is not None or show_output or allow_mock:
        raise click.UsageError("--knockout runs greedily and writes no receipt and no report")
    if len(texts) > 1 or sequences not in (None, 1):
        raise click.UsageError("--knockout runs one prompt")
    choose_device(model_choice)
    with load_model(model_choice, prefix_cache=False) as model:
        size = model.config.vocab_size
        ids = prompt_of(size, prompt_tokens) if prompt_tokens else prompt_ids(model, texts[0], tokenizer)
        whole, rows = knock_out(model, ids, tokens)
    missed = [row.kernel for row in rows if not row.changed]
    if as_json:
        print_json({"whole": asdict(whole), "kernels": [asdict(row) for row in rows], "missed_by_nothing": missed})
    else:
        click.echo(f"{'kernel':40}{'trace root':<18}{'output':<18}without it")
        click.echo(f"{'(all)':40}{_short(whole.root):<18}{_short(whole.output_sha256):<18}")
        for row in rows:
            came = row.outcome
            told = f"other {' '.join(row.changed)}" if row.changed else "NO CHANGE"
            told = told if came.failure is None else f"the run fails: {came.failure}"
            click.echo(f"{row.kernel:40}{_short(came.root):<18}{_short(came.output_sha256):<18}{told}")
    click.get_current_context().exit(1 if missed else 0)


def _short(digest: str | None) -> str:
    return "–" if digest is None else digest[:16]
