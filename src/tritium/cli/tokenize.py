"""Show how a model cuts a text into tokens, or turn token ids back into text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tritium.cli import json_option, note, print_json

if TYPE_CHECKING:
    from tritium.engine.tokenizer import Tokenizer


@click.command(short_help=__doc__)
@click.argument("text", required=False)
@click.option("-m", "--model", required=True, help='A GGUF file, also one of vocabulary only, or "demo".')
@click.option("-f", "--file", type=click.Path(path_type=Path), help="Read the text from this file instead.")
@click.option("--ids", "ids_only", is_flag=True, help="Print the ids alone, on one line.")
@json_option
@click.option("--no-special", is_flag=True, help="Add no BOS and EOS; with --decode, leave special tokens out.")
@click.option("--parse-special", is_flag=True, help="Read the names of control tokens in the text as those tokens.")
@click.option("--decode", "decoding", is_flag=True, help="The text is a list of token ids; print what they spell.")
def command(
    text: str | None,
    model: str,
    file: Path | None,
    ids_only: bool,
    as_json: bool,
    no_special: bool,
    parse_special: bool,
    decoding: bool,
) -> None:
    """Show how MODEL cuts TEXT into tokens: one line each, with its id, its type unless normal, and its bytes.

    TEXT comes from the argument, from a file, or from standard input.
    """
    if text is not None and file is not None:
        raise click.UsageError("TEXT and --file exclude each other")
    if ids_only and as_json:
        raise click.UsageError("--ids and --json exclude each other")
    if decoding and (parse_special or ids_only):
        raise click.UsageError("--decode excludes --parse-special and --ids")
    from tritium.engine.model import resolve_model
    from tritium.engine.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_gguf(resolve_model(model))
    for line in tokenizer.notes:
        note(line)
    text = _read(file) if text is None else text
    if decoding:
        _decode(tokenizer, text, as_json, no_special)
        return
    ids = tokenizer.encode(text, add_special_tokens=not no_special, parse_special=parse_special)
    if as_json:
        tokens = [{"id": index, "type": _type(tokenizer, index), "text": _escaped(tokenizer, index)} for index in ids]
        print_json({"n_tokens": len(ids), "ids": ids, "tokens": tokens})
    elif ids_only:
        click.echo(" ".join(map(str, ids)))
    else:
        width = len(str(tokenizer.vocab_size))
        for index in ids:
            kind = _type(tokenizer, index)
            click.echo(f"{index:>{width}}  {_spelled(tokenizer, index)}" + ("" if kind == "normal" else f"  {kind}"))


def _read(file: Path | None) -> str:
    data = sys.stdin.buffer.read() if file is None else file.read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{file or 'standard input'} is not UTF-8 text: byte {error.start}") from None


def _decode(tokenizer: Tokenizer, text: str, as_json: bool, no_special: bool) -> None:
    try:
        ids = [int(word) for word in text.replace(",", " ").strip(" \t\r\n[]").split()]
    except ValueError as error:
        raise click.UsageError(f"not a list of token ids: {error}") from None
    decoded = tokenizer.decode(ids, skip_special_tokens=no_special)
    if as_json:
        print_json({"n_tokens": len(ids), "ids": ids, "text": decoded})
    else:
        click.echo(decoded)


def _type(tokenizer: Tokenizer, index: int) -> str:
    return tokenizer.token_type(index).name.lower()


def _escaped(tokenizer: Tokenizer, index: int) -> str:
    """The token's text, the bytes of an unfinished code point as \\xNN."""
    return tokenizer.token_bytes(index).decode(errors="backslashreplace")


def _spelled(tokenizer: Tokenizer, index: int) -> str:
    """The token as a Python literal: text, or bytes where a code point is unfinished."""
    data = tokenizer.token_bytes(index)
    try:
        return repr(data.decode())
    except UnicodeDecodeError:
        return repr(data)
