"""Tiny models of random ternary weights, one for each corner of the supported graphs.

The weights come from the raw output of PCG64, which NumPy keeps stable, so a model is the same file everywhere and golden
hashes of it can be committed.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tritium.formats.gguf import open_gguf
from tritium.formats.gguf_writer import GGUFWriter, Value
from tritium.layouts import LAYOUTS

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
MERGES = ("Ġ t", "h e", "Ġt he", "i n", "Ġ a", "o u", "r e", "Ġ s")
SPECIALS = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")


@dataclass(frozen=True)
class TinyConfig:
    """Sizes of one tiny model. ``head`` is the layout of the embedding and, where untied, of the output head."""

    architecture: str
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    tied: bool
    head: str = "f16"
    n_layers: int = 2
    max_context: int = 320
    chat: bool = False

    @property
    def sub_norms(self) -> bool:
        return self.architecture.startswith("bitnet")


TINY: dict[str, TinyConfig] = {
    "relu2_mha_tied": TinyConfig("bitnet-b1.58", 128, 4, 4, 32, 256, tied=True),
    "relu2_gqa_tied_chat": TinyConfig("bitnet-b1.58", 160, 5, 1, 32, 416, tied=True, head="q8_0", chat=True),
    "relu2_gqa_untied_bf16": TinyConfig("bitnet-b1.58", 192, 6, 2, 32, 320, tied=False, head="bf16"),
    "silu_gqa_tied_head_dim_20": TinyConfig("bitnet", 160, 8, 4, 20, 352, tied=True),
    "llama_gqa_untied_wide_heads": TinyConfig("llama", 128, 4, 2, 64, 320, tied=False),
    "llama_mha_untied_q6_k": TinyConfig("llama", 256, 8, 8, 32, 512, tied=False, head="q6_k"),
    "llama_mha_tied_f32": TinyConfig("llama", 96, 3, 3, 32, 160, tied=True, head="f32", n_layers=3),
}

WHOLE_BLOCKS = TinyConfig("bitnet-b1.58", 256, 4, 2, 64, 512, tied=True)
"""Rows of whole blocks of 256, for layouts with a scale a block."""

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
"""Names of a layer's ternary tensors."""


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in byte-level BPE: printable Latin-1 for itself, the rest from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def vocabulary() -> list[str]:
    """All tokens by id: bytes, merged pairs, special tokens; 267, so that no group of 16 rows comes out even."""
    return [*byte_alphabet(), *(merge.replace(" ", "") for merge in MERGES), *SPECIALS]


def metadata(config: TinyConfig) -> dict[str, Value]:
    """The keys and values of the file's header."""
    tokens, prefix = vocabulary(), config.architecture
    bos, eos, eot = (tokens.index(text) for text in SPECIALS)
    values: dict[str, Value] = {
        "general.architecture": prefix,
        "general.name": "tiny",
        "general.file_type": 40,
        f"{prefix}.vocab_size": len(tokens),
        f"{prefix}.context_length": config.max_context,
        f"{prefix}.embedding_length": config.d_model,
        f"{prefix}.block_count": config.n_layers,
        f"{prefix}.feed_forward_length": config.d_ff,
        f"{prefix}.attention.head_count": config.n_heads,
        f"{prefix}.attention.head_count_kv": config.n_kv_heads,
        f"{prefix}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{prefix}.rope.dimension_count": config.head_dim,
        f"{prefix}.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([1] * (len(tokens) - len(SPECIALS)) + [3] * len(SPECIALS), np.int32),
        "tokenizer.ggml.merges": list(MERGES),
        "tokenizer.ggml.bos_token_id": bos,
        "tokenizer.ggml.eos_token_id": eos,
        "tokenizer.ggml.eot_token_id": eot,
        "tokenizer.ggml.add_bos_token": True,
    }
    if config.head_dim * config.n_heads != config.d_model:
        values[f"{prefix}.attention.key_length"] = config.head_dim
        values[f"{prefix}.attention.value_length"] = config.head_dim
    if config.chat:
        values["tokenizer.chat_template"] = CHAT_TEMPLATE
    return values


class _Weights:
    """Random tensors from one stream of raw 64-bit words."""

    def __init__(self, seed: int) -> None:
        self.bits = np.random.PCG64(seed)

    def uniform(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Numbers in [−1, 1) with 24 bits."""
        raw = np.asarray(self.bits.random_raw(math.prod(shape)))
        return ((raw >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)).reshape(shape)

    def dense(self, shape: tuple[int, ...], layout: str) -> NDArray[np.uint8]:
        # Small beside the layers' output: otherwise a tied head only repeats its input, whatever the layers compute.
        return LAYOUTS[layout].pack(np.float32(0.125) * self.uniform(shape))

    def gamma(self, width: int) -> NDArray[np.uint8]:
        return LAYOUTS["f32"].pack(np.float32(1) + np.float32(0.25) * self.uniform((width,)))

    def ternary(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        raw = np.asarray(self.bits.random_raw(math.prod(shape)))
        trits = (raw % np.uint64(3)).astype(np.int8).reshape(shape) - np.int8(1)
        scale = np.float32(1) / np.sqrt(np.float32(shape[1]))
        return LAYOUTS["i2_s"].pack_trits(trits, np.array([scale], np.float32))


def tensors(config: TinyConfig, seed: int) -> dict[str, tuple[tuple[int, ...], str, NDArray[np.uint8]]]:
    """name → (shape, layout, bytes), in the file's order."""
    draw = _Weights(seed)
    vocab, d, ff = len(vocabulary()), config.d_model, config.d_ff
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    out: dict[str, tuple[tuple[int, ...], str, NDArray[np.uint8]]] = {}
    out["token_embd.weight"] = (vocab, d), config.head, draw.dense((vocab, d), config.head)
    for n in range(config.n_layers):
        norms = {"attn_norm": d, "ffn_norm": d}
        if config.sub_norms:
            norms |= {"attn_sub_norm": q, "ffn_sub_norm": ff}
        for name, width in norms.items():
            out[f"blk.{n}.{name}.weight"] = (width,), "f32", draw.gamma(width)
        shapes = {
            "attn_q": (q, d), "attn_k": (kv, d), "attn_v": (kv, d), "attn_output": (d, q),
            "ffn_gate": (ff, d), "ffn_up": (ff, d), "ffn_down": (d, ff),
        }  # fmt: skip
        for name, shape in shapes.items():
            out[f"blk.{n}.{name}.weight"] = shape, "i2_s", draw.ternary(shape)
    out["output_norm.weight"] = (d,), "f32", draw.gamma(d)
    if not config.tied:
        out["output.weight"] = (vocab, d), config.head, draw.dense((vocab, d), config.head)
    return out


def write_tiny(path: Path, name: str | TinyConfig, seed: int = 1) -> Path:
    """Write the model ``TINY[name]``, or one of these sizes, to ``path`` and return the path."""
    config = TINY[name] if isinstance(name, str) else name
    content = tensors(config, seed)
    with GGUFWriter(path) as file:
        for key, value in metadata(config).items():
            file.add(key, value)
        for tensor, (shape, layout, _) in content.items():
            file.declare(tensor, shape, layout)
        for tensor, (_, _, data) in content.items():
            file.write(tensor, data)
    return path


def repacked(source: Path, path: Path, layout: str, differ: Collection[str] = ()) -> Path:
    """The model in another ternary layout, its scales rounded to float16 and a few blocks of weights 0.

    Of the matrices in ``differ`` each block has a scale of its own.
    """
    target = LAYOUTS[layout]
    with open_gguf(source) as file, GGUFWriter(path) as out:
        for key in file.metadata:
            out.copy(file, key)
        for name, info in file.tensors.items():
            out.declare(name, info.shape, layout if info.layout == "i2_s" else info.layout)
        for name, info in file.tensors.items():
            if info.layout != "i2_s":
                out.write(name, file.data(name))
                continue
            trits, scale = file.trits(name)
            blocks = trits.reshape(-1, 256)
            blocks[:: len(blocks) // 3] = 0
            scales = np.full(len(blocks), np.float16(scale[0]), np.float32)
            if name.split(".")[2] in differ:
                raw = np.asarray(np.random.PCG64(len(name)).random_raw(len(blocks)))
                spread = (raw >> np.uint64(40)) / float(1 << 24) + 0.5
                scales = (scales * spread).astype(np.float16).astype(np.float32)
            scales[(blocks == 0).all(axis=1)] = 0
            out.write(name, target.pack_trits(trits, scales if target.group else scales[1:2]))
    return path
