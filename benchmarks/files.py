"""Files of the BitNet-b1.58-2B-4T shape: the same trits for every engine, in the layout that it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from tritium.bench.synthetic import SHAPES, Recipe, make_model
from tritium.engine.model import DEMO, resolve_model
from tritium.formats.gguf import open_gguf
from tritium.formats.gguf_header import StringArray
from tritium.formats.gguf_writer import GGUFWriter

SHAPE = "2b4t"
VOCAB_SIZE = 128_256
_UNUSED = 5  # token type


def write_vocabulary(path: Path, size: int = VOCAB_SIZE) -> None:
    """Write a file without tensors: the tokenizer of the embedded model, filled up with unused tokens."""
    with open_gguf(resolve_model(DEMO)) as source, GGUFWriter(path) as writer:
        tokens = list(source.require("tokenizer.ggml.tokens", StringArray))
        types = source.require("tokenizer.ggml.token_type", np.ndarray).astype(np.int32)
        filled = [*tokens, *(f"<|unused_{i}|>" for i in range(size - len(tokens)))]
        writer.add("general.architecture", "bitnet-b1.58")
        for key in source.metadata:
            if key == "tokenizer.ggml.tokens":
                writer.add(key, filled)
            elif key == "tokenizer.ggml.token_type":
                writer.add(key, np.concatenate([types, np.full(size - len(tokens), _UNUSED, np.int32)]))
            elif key.startswith("tokenizer."):
                writer.copy(source, key)


def model_file(
    folder: Path, layout: str, head: str, *, is_peer: bool, say: Callable[[str], None], plain: bool = False
) -> Path:
    """The file of a layout and a head in ``folder``, made if it is not there (about 20 s, 0.8 to 1.2 GB).

    A peer gets the graph that it knows: SiLU in place of relu², which it computes at the same cost. ``plain`` weights are noise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shape = replace(SHAPES[SHAPE], architecture="bitnet") if is_peer else SHAPES[SHAPE]
    path = folder / f"{SHAPE}-{shape.architecture}-{layout}-{head}{'-noise' * plain}.gguf"
    if not path.is_file():
        vocabulary = folder / "vocabulary.gguf"
        if not vocabulary.is_file():
            write_vocabulary(vocabulary)
        say(f"writing {path}")
        with open_gguf(vocabulary) as source:
            make_model(Recipe(shape, layout, head, plain=plain), source, path)
    return path


def tensor_bytes(path: Path) -> int:
    """Bytes of all tensors of a file whose head is tied: what decoding a token reads at least, but for the cache."""
    with open_gguf(path) as file:
        return sum(info.nbytes for info in file.tensors.values())
