"""What the measuring commands share: the prompt and its tokenizer, the historic spellings of options."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from tritium.engine.model import Model

F = TypeVar("F", bound=Callable[..., Any])

PROMPT = "The capital of France is"

_PROMPT_OPTIONS = (
    click.option(
        "--tokenizer",
        type=click.Path(path_type=Path),
        help="Encode the prompt by this tokenizer.json or GGUF file. [default: the model's own tokenizer]",
    ),
    click.option("--gpu", is_flag=True, help="The same as --device cuda."),
)


def prompt_options(function: F) -> F:
    """Add what every measuring command takes beside the model's options."""
    for option in reversed(_PROMPT_OPTIONS):
        function = option(function)
    return function


def choose_device(options: dict[str, Any]) -> None:
    """Turn ``gpu`` into the device that it stands for. Errors: UsageError for two devices."""
    if options.pop("gpu"):
        if options["device"] not in ("auto", "cuda"):
            raise click.UsageError("--gpu and --device exclude each other")
        options["device"] = "cuda"


def prompt_ids(model: Model, text: str, tokenizer: Path | None) -> Sequence[int]:
    """Token ids of a prompt, with the special tokens that belong in front of it.

    ``tokenizer``: a GGUF file, also one of vocabulary only, a tokenizer.json, or a folder that holds one; None is the
    model's own. Errors: FileNotFoundError; FormatError.
    """
    if tokenizer is None:
        return model.tokenize(text)
    path = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such tokenizer; a GGUF model brings its own", str(path))
    if path.suffix != ".json":
        from tritium.engine.tokenizer import Tokenizer

        return Tokenizer.from_gguf(path).encode(text)
    import tokenizers

    from tritium.errors import FormatError

    try:
        library = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise FormatError("tokenizer refused", where=str(path), got=error) from error
    ids: list[int] = library.encode(text).ids
    return ids
