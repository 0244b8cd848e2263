"""What the measuring commands share: the prompt and its tokenizer, the historic spellings of options."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tritium import env

if TYPE_CHECKING:
    from tritium.engine.model import Model

F = TypeVar("F", bound=Callable[..., Any])

PROMPT = "The capital of France is"
PUBLISHED = Path("models/microsoft-bitnet-b1.58-2B-4T-gguf")

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


def model_name(model: Model) -> str:
    """The model's path as it was given; the one inside the package has its name."""
    from tritium.engine.model import DEMO, resolve_model

    try:
        return DEMO if model.path == resolve_model(DEMO) else str(model.path)
    except FileNotFoundError:
        return str(model.path)


def ternary_layout(model: Model) -> str:
    """The layout of most matrices of the file's layers, without the order of its blocks."""
    from collections import Counter

    from tritium.layouts import I2S_LAYOUTS

    names = (t.layout for name, t in model.file.tensors.items() if len(t.shape) == 2 and name.startswith("blk."))
    most = Counter(names).most_common(1)
    if not most:
        return "none"
    layout = most[0][0]
    return "i2s" if layout in I2S_LAYOUTS.values() else layout


def choose_model(options: dict[str, Any]) -> None:
    """Turn the model "auto" into a file: BITNET_GGUF, else the first that is found. Errors: FileNotFoundError."""
    if options["model"] == "auto":
        options["model"] = env.model() or str(discover_model(Path()))


def discover_model(root: Path) -> Path:
    """The first GGUF file, by name, in the folder of the published model, then below models, then in ``root`` itself.

    Errors: FileNotFoundError that says where was looked, and what to do.
    """
    for folder, pattern in ((root / PUBLISHED, "*.gguf"), (root / "models", "**/*.gguf"), (root, "*.gguf")):
        found = sorted(folder.glob(pattern)) if folder.is_dir() else []
        if found:
            return found[0]
    hint = f"no GGUF file in {PUBLISHED}, models or here; name one with -m or BITNET_GGUF, or take -m demo"
    raise FileNotFoundError(errno.ENOENT, hint, "auto")
