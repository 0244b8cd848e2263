"""Synthetic models of real shapes: the bytes, the sizes and the statistics of a trained model without its training.

What a kernel's speed may depend on is planted. With f the share of nonzero trits and K = d_model:

- f = 148/256, so 42.2 % of the trits are zero, as in the published weights of BitNet b1.58 2B4T.
- Each embedding row has a component c₀ along the all-ones direction. Blocks add noise, so after i blocks its share is
  c = c₀ / sqrt(1 + i·r²). Gate rows hold −1 more often than +1 by τ = z·sqrt(f/K)/c, Φ(z) = 0.8: 80 % of the gates are
  not above 0, and relu²(gate)·up is 0 there.
- Rows v of the embedding are (n_v + D·n_{v−1})/√2 with D a diagonal of signs, and the output norm's gamma has the signs
  D: the hidden state of token v then points towards the rows v ± 1, and the growth sqrt(1 + n_blocks·r²) of the residual
  is chosen for a cosine of 0.15.

What is generated from such a model soon repeats: nothing in it was trained to go anywhere.

Random numbers are raw Philox words keyed by the seed and the tensor's name: the same file on every machine.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritium.formats.gguf import GGUFFile
from tritium.formats.gguf_header import StringArray
from tritium.formats.gguf_writer import GGUFWriter
from tritium.layouts import LAYOUTS, Bytes, Floats, Trits

NONZERO = 148 / 256
GATES_CLOSED, CLOSED_Z = 0.8, 0.8416212335729143
TOP_COSINE = 0.15
# The expected larger of two independent standard normal variables: the better of a token's two neighbors wins.
LARGER_OF_TWO = 1 / math.sqrt(math.pi)
EMBEDDING_MEAN = 0.7
NORM_SPREAD = 0.15
# The mean of a gamma whose root mean square is 1.
_GAMMA_MEAN = 1 / math.sqrt(1 + NORM_SPREAD**2)
ATTENTION_GAMMA = 0.018
TOP_LOGIT = 20.0
ROWS_A_CHUNK = 4096

LAYOUT_NAMES = {"i2s": "i2_s", "tq2_0": "tq2_0", "tq1_0": "tq1_0"}
HEADS = ("f16", "q6_k")


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a published model. ``architecture`` decides the graph; ``sub_norms`` go with the bitnet ones."""

    architecture: str
    n_layers: int
    d_model: int
    d_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    rope_theta: float
    norm_eps: float
    max_context: int
    tied_head: bool

    @property
    def sub_norms(self) -> bool:
        return self.architecture != "llama"


SHAPES: dict[str, Shape] = {
    "2b4t": Shape("bitnet-b1.58", 30, 2560, 6912, 20, 5, 128, 500000.0, 1e-5, 4096, True),
    "falcon3-1b": Shape("llama", 18, 2048, 8192, 8, 4, 256, 1000042.0, 1e-6, 8192, False),
    "falcon3-3b": Shape("llama", 22, 3072, 9216, 12, 4, 256, 1000042.0, 1e-6, 32768, False),
    "llama3-8b": Shape("llama", 32, 4096, 14336, 32, 8, 128, 500000.0, 1e-5, 8192, False),
    "1bitllm-large": Shape("bitnet", 24, 1536, 4096, 16, 16, 96, 10000.0, 1e-5, 2048, True),
    "1bitllm-3b": Shape("bitnet", 26, 3200, 8640, 32, 32, 100, 10000.0, 1e-5, 2048, True),
    "tiny": Shape("bitnet-b1.58", 4, 256, 768, 4, 2, 64, 10000.0, 1e-5, 512, True),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to write: a shape, its layouts, a seed. ``plain`` leaves the planting out: uniform trits, normal rows."""

    shape: Shape
    layout: str = "i2s"
    head: str = "f16"
    seed: int = 0
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: sizes, and the share of zeros among all trits, counted while they were packed."""

    path: Path
    n_weights: int
    n_bytes: int
    vocab_size: int
    zero_trits: float


class _Dice:
    """Random numbers for one tensor, from raw Philox words: a stream that NumPy keeps stable."""

    def __init__(self, seed: int, name: str) -> None:
        self._philox = np.random.Philox(key=[seed, zlib.crc32(name.encode())])

    def _words(self, count: int) -> NDArray[np.uint64]:
        return self._philox.random_raw(count).astype("<u8", copy=False)

    def below(self, bits: int, count: int) -> NDArray[Any]:
        """``count`` uniform integers of 8 or 16 bits."""
        size = bits // 8
        return self._words(-(-count * size // 8)).view(f"<u{size}")[:count]

    def normal(self, rows: int, columns: int) -> Floats:
        """(rows, columns) f32 of mean 0 and variance 1: the sum of four uniform bytes, within ±3.5."""
        total = np.zeros((rows, columns), np.uint16)
        for _ in range(4):
            total += self.below(8, rows * columns).reshape(rows, columns)
        return (total.astype(np.float32) - np.float32(510)) * np.float32(1 / math.sqrt((256 * 256 - 1) / 3))

    def signs(self, count: int) -> Floats:
        """(count,) f32 of +1 and −1 in equal number."""
        out = np.ones(count, np.float32)
        out[np.argsort(self._words(count), kind="stable")[: count // 2]] = -1
        return out


def make_model(
    recipe: Recipe, vocabulary: GGUFFile, path: str | os.PathLike[str], progress: Callable[[str], None] = lambda _: None
) -> Written:
    """Write a synthetic model with the tokenizer of ``vocabulary``, streaming: one matrix in memory at a time.

    Errors: FormatError if ``vocabulary`` has no tokens; ShapeError if a layout cannot hold the shape; OSError.
    """
    tokens = vocabulary.require("tokenizer.ggml.tokens", StringArray)
    forge = _Forge(recipe, len(tokens))
    with GGUFWriter(path) as writer:
        for key, value in _metadata(recipe, len(tokens)).items():
            writer.add(key, value)
        for key in vocabulary.metadata:
            if key.startswith("tokenizer."):
                writer.copy(vocabulary, key)
        plan = list(forge.tensors())
        for name, shape, layout, _ in plan:
            writer.declare(name, shape, layout)
        for name, _, _, chunks in plan:
            progress(name)
            for chunk in chunks():
                writer.write(name, chunk)
    return Written(Path(path), forge.n_weights, Path(path).stat().st_size, len(tokens), forge.n_zeros / forge.n_weights)


def _metadata(recipe: Recipe, vocab_size: int) -> dict[str, Any]:
    s, layout = recipe.shape, LAYOUTS[LAYOUT_NAMES[recipe.layout]]
    sizes = {
        "vocab_size": vocab_size,
        "context_length": s.max_context,
        "embedding_length": s.d_model,
        "block_count": s.n_layers,
        "feed_forward_length": s.d_ff,
        "rope.dimension_count": s.head_dim,
        "rope.freq_base": s.rope_theta,
        "attention.head_count": s.n_heads,
        "attention.head_count_kv": s.n_kv_heads,
        "attention.layer_norm_rms_epsilon": s.norm_eps,
    }
    if s.head_dim * s.n_heads != s.d_model:
        sizes |= {"attention.key_length": s.head_dim, "attention.value_length": s.head_dim}
    general = {"general.architecture": s.architecture, "general.name": f"synthetic, seed {recipe.seed}"}
    return (
        general | {"general.file_type": layout.file_type} | {f"{s.architecture}.{key}": v for key, v in sizes.items()}
    )


Chunks = Callable[[], Iterator[Bytes]]


class _Forge:
    """Makes the tensors of a recipe, and counts the trits."""

    def __init__(self, recipe: Recipe, vocab_size: int) -> None:
        s = recipe.shape
        self._recipe, self._vocab_size = recipe, vocab_size
        self._layout = LAYOUTS[LAYOUT_NAMES[recipe.layout]]
        self._head = LAYOUTS[recipe.head]
        self._signs = _Dice(recipe.seed, "signs").signs(s.d_model)
        self._mean = 0.0 if recipe.plain else EMBEDDING_MEAN
        reachable = TOP_COSINE - LARGER_OF_TWO / math.sqrt(s.d_model)
        growth = (1 - EMBEDDING_MEAN**2) / 2 * _GAMMA_MEAN / reachable if reachable > 0 else math.inf
        # Narrow shapes leave no room between noise and the planted cosine: they get the growth of wide ones.
        self._growth = min(max(growth, 1.5), 4.0)
        self._block_variance = (self._growth**2 - 1) / (2 * s.n_layers)
        self.n_weights = self.n_zeros = 0

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...], str, Chunks]]:
        """Name, shape, layout and a maker of the bytes, in file order."""
        s, step = self._recipe.shape, math.sqrt(self._block_variance)
        table = (self._vocab_size, s.d_model)
        yield "token_embd.weight", table, self._head.name, self._table
        yield self._norm("output_norm.weight", s.d_model, TOP_LOGIT / (TOP_COSINE * s.d_model), signed=True)
        if not s.tied_head:
            yield "output.weight", table, self._head.name, self._table
        wide, narrow = s.n_heads * s.head_dim, s.n_kv_heads * s.head_dim
        # Without a norm behind them, averaged values and gated products have about these magnitudes.
        mixed, gated = (1.0, 1.0) if s.sub_norms else (0.75, 0.6)
        for i in range(s.n_layers):
            block = f"blk.{i}"
            share = EMBEDDING_MEAN / math.sqrt(1 + (2 * i + 1) * self._block_variance)
            tilt = CLOSED_Z * math.sqrt(NONZERO / s.d_model) / (share * _GAMMA_MEAN)
            is_tilted = s.sub_norms and not self._recipe.plain
            yield self._norm(f"{block}.attn_norm.weight", s.d_model, ATTENTION_GAMMA)
            yield self._linear(f"{block}.attn_q.weight", wide, s.d_model, 1 / ATTENTION_GAMMA)
            yield self._linear(f"{block}.attn_k.weight", narrow, s.d_model, 1 / ATTENTION_GAMMA)
            yield self._linear(f"{block}.attn_v.weight", narrow, s.d_model, 1 / ATTENTION_GAMMA)
            if s.sub_norms:
                yield self._norm(f"{block}.attn_sub_norm.weight", wide, 1.0)
            yield self._linear(f"{block}.attn_output.weight", s.d_model, wide, step / mixed)
            yield self._norm(f"{block}.ffn_norm.weight", s.d_model, 1.0)
            yield self._linear(f"{block}.ffn_gate.weight", s.d_ff, s.d_model, 1.0, tilt if is_tilted else 0.0)
            yield self._linear(f"{block}.ffn_up.weight", s.d_ff, s.d_model, 1.0)
            if s.sub_norms:
                yield self._norm(f"{block}.ffn_sub_norm.weight", s.d_ff, 1.0)
            yield self._linear(f"{block}.ffn_down.weight", s.d_model, s.d_ff, step / gated)

    def _norm(
        self, name: str, size: int, gamma: float, *, signed: bool = False
    ) -> tuple[str, tuple[int, ...], str, Chunks]:
        def chunks() -> Iterator[Bytes]:
            noise = _Dice(self._recipe.seed, name).normal(1, size)[0]
            values: Floats = np.float32(gamma * _GAMMA_MEAN) * (np.float32(1) + np.float32(NORM_SPREAD) * noise)
            if signed and not self._recipe.plain:
                values = values * self._signs
            yield LAYOUTS["f32"].pack(values)

        return name, (size,), "f32", chunks

    def _table(self) -> Iterator[Bytes]:
        """The embedding, and the head where it is not tied: a mean of ``EMBEDDING_MEAN`` and rows that chain neighbors."""
        dice, width = _Dice(self._recipe.seed, "token_embd.weight"), self._recipe.shape.d_model
        spread = np.float32(math.sqrt(1 - self._mean**2))
        last = dice.normal(1, width)
        for start in range(0, self._vocab_size, ROWS_A_CHUNK):
            fresh = dice.normal(min(ROWS_A_CHUNK, self._vocab_size - start), width)
            rows: Floats = fresh
            if not self._recipe.plain:
                before = np.concatenate([last, fresh[:-1]])
                rows = ((fresh + before * self._signs) * np.float32(math.sqrt(0.5))).astype(np.float32)
            last = fresh[-1:]
            yield self._head.pack((rows * spread + np.float32(self._mean)).astype(np.float32))

    def _linear(
        self, name: str, rows: int, columns: int, gain: float, tilt: float = 0.0
    ) -> tuple[str, tuple[int, ...], str, Chunks]:
        """A matrix whose outputs have ``gain`` times the root mean square of its inputs."""

        def chunks() -> Iterator[Bytes]:
            nonzero = 2 / 3 if self._recipe.plain else NONZERO
            trits = _ternary(_Dice(self._recipe.seed, name), rows, columns, nonzero, tilt)
            self.n_weights += trits.size
            self.n_zeros += trits.size - int(np.count_nonzero(trits))
            scale = gain / math.sqrt(nonzero * columns)
            n_scales = trits.size // self._layout.group if self._layout.group else 1
            yield self._layout.pack_trits(trits, np.full(n_scales, scale, np.float32))

        return name, (rows, columns), self._layout.name, chunks


def _ternary(dice: _Dice, rows: int, columns: int, nonzero: float, tilt: float) -> Trits:
    """(rows, columns) i8 trits with P(−1) = (nonzero + tilt) / 2 and P(+1) = (nonzero − tilt) / 2."""
    bits = 8 if nonzero == NONZERO and tilt == 0 else 16
    low = round(2**bits * (nonzero + tilt) / 2)
    high = 2**bits - round(2**bits * (nonzero - tilt) / 2)
    drawn = dice.below(bits, rows * columns)
    kind = drawn.dtype.type
    trits: Trits = (drawn >= kind(high)).view(np.int8) - (drawn < kind(low)).view(np.int8)
    return trits.reshape(rows, columns)
