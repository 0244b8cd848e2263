"""Measure a model's speed here, beside what the machine can reach, and write a receipt of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tritium import env
from tritium.cli import json_option, note, print_json
from tritium.cli._benchmark_micro import kernels, quantize
from tritium.cli._benchmark_sweep import sweep
from tritium.cli._generation import load_model, model_options
from tritium.cli._measuring import PROMPT, choose_device, choose_model, prompt_ids, prompt_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium.bench.benchmark import Benchmark, Run, Workload
    from tritium.engine.model import Model
    from tritium.evidence.recorder import Recorder

_ASIDE = (
    "--output PATH places the receipt, --report FILE the detailed form; --json, --gpu and --no-output take no value"
)


class _Benchmark(click.Group):
    """The benchmark itself, and further ones by name."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None:
            raise click.UsageError(f"unexpected {args[0]!r}: {_ASIDE}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Benchmark, invoke_without_command=True, short_help=__doc__)
@model_options
@prompt_options
@click.option(
    "-n",
    "--tokens",
    "--max-tokens",
    type=click.IntRange(2),
    default=128,
    show_default=True,
    help="Generate exactly as many tokens.",
)
@click.option(
    "-p",
    "--prompt",
    "texts",
    multiple=True,
    default=(PROMPT,),
    show_default=True,
    help="The text to continue; several are continued together.",
)
@click.option("--prompt-tokens", type=click.IntRange(1), help="Instead of a text, as many fixed pseudo-random tokens.")
@click.option(
    "-b",
    "--sequences",
    type=click.IntRange(1),
    help="With --prompt-tokens: so many prompts of their own, together.  [default: 1]",
)
@click.option(
    "--warmup-tokens",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="Generate as many before anything counts.",
)
@click.option("--repeats", type=click.IntRange(1), default=2, show_default=True, help="Runs that count.")
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="0 takes the best token; above, draws.",
)
@click.option("--seed", type=click.IntRange(0), help="Key of the random numbers. [default: BITNET_SEED, else 42]")
@click.option(
    "-o",
    "--output",
    "--receipt",
    type=click.Path(path_type=Path),
    default=Path("ci/inference.json"),
    show_default=True,
    help="Write the receipt to this file.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    help="Write all samples, limits and the table of ops to this file, as JSON.",
)
@click.option("--show-output/--no-output", default=False, help="Print the generated text, too. [default: no]")
@click.option(
    "--allow-mock",
    is_flag=True,
    help="Run a back end that computes nothing; its receipt says so and no judge accepts it.",
)
@click.option(
    "--knockout",
    is_flag=True,
    help="Instead of measuring, run without each kernel in turn: exit 1 if one is missed by nothing.",
)
@json_option
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Load the model, warm up, continue a prompt a few times; print medians, spread and limits; write a receipt.

    Loading, warm-up, prefill (up to the first token) and decoding (from token to token) are timed apart. Before each
    repeat the machine's read bandwidth and its peaks of int8 and of float32 products are measured with as many threads:
    the limits of decoding and of prefill, whose attention multiplies float32.

    Several prompts are decoded together, a token each with every pass. Speeds are then those of all, from the moment that every
    prompt has its first token, and the receipt declares a batch.

    The receipt records the run whose decoding took the middle time, and the outcome and time of the others; "tritium
    verify-receipt" judges it. --json prints it. A run that fails writes none.
    """
    is_knockout = options.pop("knockout")
    if context.invoked_subcommand is not None:
        return
    if options["sequences"] is not None and options["prompt_tokens"] is None:
        raise click.UsageError("--sequences needs --prompt-tokens; for texts, give --prompt several times")
    if is_knockout:
        from tritium.cli._knockout import print_knockout

        print_knockout(**options)
    else:
        _benchmark(**options)


def _benchmark(
    *, tokens: int, texts: tuple[str, ...], prompt_tokens: int | None, sequences: int | None, tokenizer: Path | None,
    warmup_tokens: int, repeats: int,
    temperature: float, seed: int | None, output: Path, report: Path | None, show_output: bool, allow_mock: bool,
    as_json: bool, **model_choice: Any,
) -> None:  # fmt: skip
    from tritium.bench.benchmark import Workload, benchmark, middle, open_timed, prompt_of
    from tritium.engine.sampling import SamplingParams
    from tritium.evidence.recorder import recorder

    choose_device(model_choice)
    choose_model(model_choice)
    _check_computes(model_choice["backend"], allow_mock)
    if seed is None:
        seed = 42 if (named := env.seed()) is None else named
    params = SamplingParams(max_tokens=tokens, temperature=temperature, seed=seed, ignore_eos=True)
    repeats = max(repeats, 2 if env.is_deterministic() else 1)
    n_prompts = sequences or len(texts)
    budget = _cache_budget(model_choice, n_prompts, tokens + (prompt_tokens or _longest(texts)))
    model, load_s, peak = open_timed(lambda: load_model(model_choice, prefix_cache=False, kv_budget=budget))
    with model:
        size = model.config.vocab_size
        prompts = (
            [prompt_of(size, prompt_tokens, seed=number) for number in range(n_prompts)]
            if prompt_tokens
            else [prompt_ids(model, text, tokenizer) for text in texts]
        )
        work = Workload(tuple(map(tuple, prompts)), tokens, params, warmup_tokens, repeats)
        recorders: list[Recorder] = []

        def observe() -> Recorder:
            recorders.append(recorder(model))
            return recorders[-1]

        result, runs = benchmark(model, work, load_s=load_s, peak=peak, observe=observe)
        i = middle(runs)
        receipt = _receipt(model, work, runs, recorders, i, output)
        if report is not None:
            _write(report, _document(model, result, receipt, output))
    if as_json:
        print_json(receipt)
    else:
        from tritium.cli._benchmark_text import lines

        for line in lines(result, receipt, output):
            click.echo(line)
    if show_output:
        for came in runs[i].results:
            (note if as_json else click.echo)(came.text)


def _longest(texts: Sequence[str]) -> int:
    """The most tokens that a text can have: one a byte, and those that belong in front of it."""
    return max(len(text.encode()) for text in texts) + 8


def _cache_budget(choice: dict[str, Any], n_sequences: int, n_positions: int) -> int | None:
    """Bytes that so many sequences side by side take in the cache; None leaves one sequence what it has by default."""
    if n_sequences == 1 or choice["max_context"] is not None:
        return None
    from tritium.bench.sweep import cache_bytes
    from tritium.engine.model import DEMO

    return cache_bytes(choice["model"] or env.model() or DEMO, choice["i2s_layout"], n_positions, n_sequences)


def _check_computes(backend: str | None, allow_mock: bool) -> None:
    """Refuse a back end that computes nothing, unless that is what was asked for. Errors: NumericsError."""
    if backend == "null" and not allow_mock:
        from tritium.errors import NumericsError

        raise NumericsError("nothing would be measured", where="--backend null", expected="a back end that computes",
                            hint="--allow-mock runs it all the same, and its receipt says mock")  # fmt: skip


def _receipt(
    model: Model, work: Workload, runs: list[Run], recorders: list[Recorder], i: int, path: Path
) -> dict[str, Any]:
    """Write the receipt of run ``i``, the others its repeats; of a back end that computes nothing, one that says so."""
    from tritium.cli._receipt import finish_receipt

    if model.plan.backend != "null":
        n, others = len(work.prompts), [r.results for j, r in enumerate(runs) if j != i]
        mine = recorders[i * n : (i + 1) * n]
        return finish_receipt(model, runs[i].results, mine, work.params, others, path)
    import tritium
    from tritium.bench.machine import read_machine
    from tritium.receipts.schema import SCHEMA_VERSION, write

    machine = read_machine()
    receipt = {
        "schema_version": SCHEMA_VERSION,
        "timestamp": datetime.now(UTC).isoformat(),
        "compute_path": "mock",
        "backend": "null",
        "kernels": ["mock_null"],
        "deterministic": False,
        "tokens_requested": work.tokens * len(work.prompts),
        "tokens_generated": sum(len(r.token_ids) for r in runs[i].results),
        "tokens_per_second": None,
        "environment": {"BITNET_VERSION": tritium.__version__, "OS": f"{machine.os}-{machine.architecture}"},
        "model": {"path": str(model.path)},
    }
    write(receipt, path)
    return receipt


def _document(model: Model, result: Benchmark, receipt: dict[str, Any], output: Path) -> dict[str, Any]:
    """The detailed form: what ran, where, and every figure with its samples."""
    from tritium.bench.host import fingerprint

    return {
        "model": str(model.path),
        "threads": model.n_threads,
        "backend": model.plan.backend,
        "graph_hash": model.graph_hash,
        "plan_hash": model.plan_hash,
        "receipt": str(output),
        **{name: receipt[name] for name in ("timestamp", "compute_path", "deterministic", "kernels")},
        "host": asdict(fingerprint()),
        **asdict(result),
    }


def _write(path: Path, document: dict[str, Any]) -> None:
    from tritium.receipts.files import write_text

    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


command.add_command(sweep)
command.add_command(kernels)
command.add_command(quantize)
