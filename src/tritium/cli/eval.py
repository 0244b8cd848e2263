"""Score a text with a model, or compare two models or settings on it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tritium.cli import json_option, kv_option, note, print_json

if TYPE_CHECKING:
    from tritium.bench.perplexity import Mean, Perplexity, Text
    from tritium.engine.model import Model

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_CONTEXT = 512
SETTINGS = ("backend", "device", "i2s-layout", "kv", "threads")

_TEXT_OPTIONS = (
    click.option(
        "--context", type=click.IntRange(2), help="Tokens of a window. [default: 512, or the model's if less]"
    ),
    click.option(
        "--stride", type=click.IntRange(1), help="Tokens from one window's begin to the next. [default: half a window]"
    ),
    click.option("--tokens", type=click.IntRange(2), help="Take only this many tokens of the text."),
    json_option,
)


def _text_options(function: F) -> F:
    for option in reversed(_TEXT_OPTIONS):
        function = option(function)
    return function


@click.group(short_help=__doc__)
def command() -> None:
    """Score a text with a model, or compare two models or settings on it."""


@command.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("-m", "--model", default="demo", show_default=True, help='A GGUF file, or "demo".')
@click.option("--device", default="auto", show_default=True, help="auto or cpu.")
@click.option("--backend", help="Name the back end outright: cpu or reference.")
@click.option("--threads", type=int, help="Threads of the native core. [default: TRITIUM_THREADS, else one a core]")
@click.option(
    "--i2s-layout", default="128", show_default=True, help="Block order of I2_S in the file: 128, 64 or 4row."
)
@kv_option
@_text_options
def perplexity(
    file: Path, model: str, device: str, backend: str | None, threads: int | None, i2s_layout: str, kv: str,
    context: int | None, stride: int | None, tokens: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Score FILE, UTF-8 text ("-": standard input): perplexity, nats a token, bits a byte, standard error.

    The text is cut into windows; each token is scored once, in the first window that reaches it, after at least CONTEXT − STRIDE
    tokens (fewer at the text's begin; the first token is not scored). Log-probabilities are float64. The standard error takes the
    tokens as independent.
    """
    text = _read(file)
    from tritium.bench.perplexity import perplexity as score
    from tritium.engine.model import load

    with load(model, device=device, backend=backend, threads=threads, i2s_layout=i2s_layout, kv=kv) as loaded:
        cut = _tokens(loaded, text, tokens)
        window, step = _sizes(context, stride, loaded)
        result = score(loaded, cut, context=window, stride=step)
        ran = {
            "model": str(loaded.path),
            "text": str(file),
            "backend": loaded.plan.backend,
            "graph_hash": loaded.graph_hash,
        }
    if as_json:
        print_json({**ran, **_json(result)})
        return
    click.echo(f"{ran['model']} on {ran['backend']} · {ran['text']} · {_extent(result)}")
    click.echo(f"perplexity      {_value(result.perplexity)}")
    click.echo(f"nats a token    {_value(result.nats)}")
    if result.bits_per_byte is not None:
        click.echo(f"bits a byte     {result.bits_per_byte:.6g} ({result.n_bytes} bytes)")


@command.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--a", "settings_a", multiple=True, metavar="KEY=VALUE", help=f"Setting of A: {', '.join(SETTINGS)}.")
@click.option("--b", "settings_b", multiple=True, metavar="KEY=VALUE", help="Setting of B.")
@_text_options
def compare(
    a: str, b: str, file: Path, settings_a: Sequence[str], settings_b: Sequence[str], context: int | None,
    stride: int | None, tokens: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Compare models A and B, or one model under two settings, on FILE: KL divergence, flips of the best token, perplexity.

    Both must cut the text into the same tokens. KL is KL(A ‖ B); the difference of the perplexities is paired, token by token.
    """
    text = _read(file)
    from tritium.bench.perplexity import compare as score
    from tritium.engine.model import load
    from tritium.errors import ShapeError

    with load(a, **_settings(settings_a, "--a")) as one, load(b, **_settings(settings_b, "--b")) as two:
        cut, other = _tokens(one, text, tokens), _tokens(two, text, tokens)
        if cut.ids != other.ids:
            raise ShapeError(
                "A and B cut the text into different tokens", expected=f"{len(cut.ids)} tokens", got=len(other.ids)
            )
        window, step = _sizes(context, stride, one, two)
        result = score(one, two, cut, context=window, stride=step)
        names = [f"{m.path} on {m.plan.backend}, {m.n_threads} threads" for m in (one, two)]
        hashes = [m.graph_hash for m in (one, two)]
    if as_json:
        data = {key: value for key, value in asdict(result).items() if key not in ("a", "b")}
        sides = [
            {"model": name, "graph_hash": digest, **_json(side)}
            for name, digest, side in zip(names, hashes, (result.a, result.b), strict=True)
        ]
        print_json({"text": str(file), "n_tokens": result.a.n_tokens, **data, "a": sides[0], "b": sides[1]})
        return
    n = result.a.n_tokens
    click.echo(f"A  {names[0]}\nB  {names[1]}\n{file} · {_extent(result.a)}")
    click.echo(f"logits          {'identical bits' if result.identical else f'differ, most by {result.max_abs:.3g}'}")
    click.echo(f"KL(A ‖ B)       {_value(result.kl)} nats, most {result.kl_max:.3g}")
    click.echo(f"best token      differs at {result.flips} of {n} ({100 * result.flips / n:.3g} %)")
    click.echo(f"perplexity A    {_value(result.a.perplexity)}")
    click.echo(f"perplexity B    {_value(result.b.perplexity)}")
    click.echo(f"B − A           {_value(result.delta)} nats a token")


def _read(file: Path) -> str:
    data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{file} is not UTF-8 text: byte {error.start}") from None


def _tokens(model: Model, text: str, limit: int | None) -> Text:
    from tritium.bench.perplexity import cut_text

    for line in model.tokenizer.notes:
        note(line)
    return cut_text(model.tokenizer, text, limit)


def _sizes(context: int | None, stride: int | None, *models: Model) -> tuple[int, int]:
    """The window and the stride, whatever was left open filled in."""
    from tritium.errors import ShapeError

    most = min(model.max_context for model in models)
    window = min(DEFAULT_CONTEXT, most) if context is None else context
    if window > most:
        raise ShapeError("context", expected=f"2 to {most}, the model's", got=window)
    return window, max(1, window // 2) if stride is None else stride


def _settings(pairs: Sequence[str], option: str) -> Mapping[str, Any]:
    """Keywords of ``load``."""
    out: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in SETTINGS:
            raise click.UsageError(f"{option}: expected KEY=VALUE with a key of {', '.join(SETTINGS)}, got {pair!r}")
        if key == "threads" and not value.isdecimal():
            raise click.UsageError(f"{option}: threads: expected a number, got {value!r}")
        out[key.replace("-", "_")] = int(value) if key == "threads" else value
    return out


def _json(result: Perplexity) -> dict[str, Any]:
    data = asdict(result)
    del data["per_token"]
    return data


def _extent(result: Perplexity) -> str:
    return f"{result.n_tokens} tokens scored, {result.n_windows} windows of {result.context}, {result.stride} apart"


def _value(mean: Mean) -> str:
    return f"{mean.value:.6g}" + ("" if mean.error is None else f" ± {mean.error:.2g}")
