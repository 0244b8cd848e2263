"""Continue a prompt, streaming the text."""

from __future__ import annotations

import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tritium import env
from tritium.cli import json_option, note, print_json
from tritium.cli._generation import (
    Figures,
    figures,
    interruptible,
    load_model,
    model_options,
    sampling_options,
    sampling_params,
)
from tritium.cli._receipt import Recording

if TYPE_CHECKING:
    from tritium.engine.generate import Stream
    from tritium.engine.generation import GenerationResult
    from tritium.engine.model import Model


@click.command(short_help=__doc__)
@click.argument("prompt", required=False)
@model_options
@click.option("-f", "--file", type=click.Path(path_type=Path), help="Read the prompt from this file.")
@sampling_options
@click.option("--logprobs", type=int, help="With --json: log-probabilities of the n best tokens at each position.")
@click.option(
    "--chat/--no-chat",
    default=None,
    help="Put the prompt into the chat template. [default: if the file brings one; it is said on stderr]",
)
@click.option("--parse-special", is_flag=True, help="Read names of control tokens in the prompt as those tokens.")
@click.option("--receipt", type=click.Path(path_type=Path), help="Write a receipt of the run to this file.")
@click.option(
    "--repeats",
    type=click.IntRange(1, 1000),
    help="Runs of a receipt; equal outcomes of two or more say deterministic. [default: 1]",
)
@click.option("--nonce", help="With --receipt: what a verifier sent; the trace of the run commits to it.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but the text; measure nothing.")
def command(
    prompt: str | None,
    file: Path | None,
    chat: bool | None,
    parse_special: bool,
    receipt: Path | None,
    repeats: int | None,
    nonce: str | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Continue PROMPT and print the text as it comes.

    PROMPT comes from the argument, from a file, or from standard input; one newline at the end of the latter two is dropped.
    The last line, on stderr, tells the number of tokens; tokens a second and milliseconds a token after the first one;
    bytes of weights and cache read a second, and their share of the bandwidth that is measured right afterwards; the
    process's own memory and what of files is mapped into it; and the start of the SHA-256 of the last position's
    logits. Ctrl-C ends it early and keeps what there is.

    A receipt holds what the executor counted and the clock showed; "tritium verify-receipt" judges it. A run that fails or is
    interrupted writes none.
    """
    if prompt is not None and file is not None:
        raise click.UsageError("PROMPT and --file exclude each other")
    if options["logprobs"] is not None and not as_json:
        raise click.UsageError("--logprobs needs --json")
    if repeats is not None and receipt is None:
        raise click.UsageError("--repeats needs --receipt")
    _check_nonce(nonce, receipt)
    if prompt is None:
        prompt = _read(file)
    cancel = threading.Event()
    with load_model(options, quiet=quiet) as model, interruptible(cancel):
        params = sampling_params(options)
        applied = model.has_chat_template if chat is None else chat
        if applied and parse_special:
            raise click.UsageError("--parse-special needs --no-chat: a template's text is its own")
        recording = (
            Recording(model, params, receipt, repeats, nonce) if receipt is not None or env.is_strict() else None
        )
        settings: dict[str, Any] = {"cancel": cancel, "measure": not quiet or recording is not None}

        def start() -> Stream:
            """The generation, from its beginning."""
            observer = None if recording is None else recording.observe()
            if applied:
                messages = [{"role": "user", "content": prompt}]
                return model.chat_stream(messages, params, observer=observer, **settings)
            return model.stream(prompt, params, parse_special=parse_special, observer=observer, **settings)

        def restart() -> Stream:
            """The same once more: the end of a stream cancels what it began with."""
            cancel.clear()
            return start()

        stream = start()
        if not quiet:
            note("chat template applied" if applied else "no chat template applied")
        with stream:
            _print(stream, as_json)
        result = stream.result
        if recording is not None and result.finish_reason != "cancelled":
            recording.finish(result, restart)
        measured = None if quiet else figures(model, result)
        if as_json:
            print_json({**_document(model, result, measured), "chat_template": applied, "sampling": asdict(params)})
        if result.finish_reason == "length" and "context" in result.finish_detail and not quiet:
            note(result.finish_detail)
        if measured is not None:
            note(measured.line())
        if receipt is not None and result.finish_reason != "cancelled" and not quiet:
            note(f"receipt {receipt}")
    if result.finish_reason == "cancelled":
        click.get_current_context().exit(130)


def _check_nonce(nonce: str | None, receipt: Path | None) -> None:
    """Errors: UsageError."""
    from tritium.errors import FormatError
    from tritium.receipts.statement import check_nonce

    if nonce is None:
        return
    if receipt is None:
        raise click.UsageError("--nonce needs --receipt")
    try:
        check_nonce(nonce, "--nonce")
    except FormatError as error:
        raise click.UsageError(str(error)) from None


def _read(file: Path | None) -> str:
    if file is None and sys.stdin.isatty():
        raise click.UsageError("no prompt: give it as an argument, with -f FILE, or on standard input")
    data = sys.stdin.buffer.read() if file is None else file.read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{file or 'standard input'} is not UTF-8 text: byte {error.start}") from None
    return text.removesuffix("\n").removesuffix("\r")


def _print(stream: Stream, silent: bool) -> None:
    """Print the pieces; the last line gets its newline."""
    last = ""
    for piece in stream:
        last = piece
        if not silent:
            click.echo(piece, nl=False)
    if not silent and not last.endswith("\n"):
        click.echo()


def _document(model: Model, result: GenerationResult, measured: Figures | None) -> dict[str, object]:
    document: dict[str, object] = {
        "model": str(model.path),
        "architecture": model.config.architecture,
        "backend": model.plan.backend,
        "threads": model.n_threads,
        "graph_hash": model.graph_hash,
        "plan_hash": model.plan_hash,
        "prompt_tokens": result.prompt_tokens,
        "prompt_ids": list(result.prompt_ids),
        "text": result.text,
        "token_ids": list(result.token_ids),
        "finish_reason": result.finish_reason,
        "finish_detail": result.finish_detail,
        "token_ns": list(result.token_ns),
    }
    if result.logprobs is not None:
        document["logprobs"] = [asdict(entry) for entry in result.logprobs]
    if measured is not None:
        document["figures"] = measured.as_json()
    return document
