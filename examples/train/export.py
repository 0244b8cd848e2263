"""Write a trained checkpoint as a GGUF file: linear layers I2_S, embeddings (also the head) f16, norms f32.

Usage: python export.py build/train -o demo.gguf
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from data import BOS, CONTROL_TOKENS, EOS, EOT
from model import BitNet, Shape, quantize_weight
from tokenizers import Tokenizer
from torch import Tensor
from train import load_checkpoint

from tritium.formats.gguf_writer import GGUFWriter
from tritium.layouts import LAYOUTS, Bytes

ARCHITECTURE = "bitnet-b1.58"
NORMAL, CONTROL = 1, 3
MATRICES = {
    "attn_qkv": ("attn_q", "attn_k", "attn_v"),
    "attn_output": ("attn_output",),
    "ffn_gate_up": ("ffn_gate", "ffn_up"),
    "ffn_down": ("ffn_down",),
}
NORMS = ("attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm")

Entry = tuple[str, tuple[int, ...], str, Bytes]


def dense(name: str, values: Tensor, layout: str) -> Entry:
    array = values.detach().numpy()
    return f"{name}.weight", array.shape, layout, LAYOUTS[layout].pack(array)


def ternary(name: str, weight: Tensor) -> Entry:
    trits, scale = quantize_weight(weight.detach())
    packed = LAYOUTS["i2_s"].pack_trits(trits.numpy().astype(np.int8), np.array([scale.item()], np.float32))
    return f"{name}.weight", tuple(weight.shape), "i2_s", packed


def tensors(model: BitNet) -> Iterator[Entry]:
    """Yield (name, shape, layout, bytes) in the file's order."""
    yield dense("token_embd", model.token_embd, "f16")
    for n, block in enumerate(model.blocks):
        for norm in NORMS:
            yield dense(f"blk.{n}.{norm}", getattr(block, norm).weight, "f32")
        for attribute, names in MATRICES.items():
            for name, weight in zip(names, getattr(block, attribute).weights, strict=True):
                yield ternary(f"blk.{n}.{name}", weight)
    yield dense("output_norm", model.output_norm.weight, "f32")


def add_metadata(writer: GGUFWriter, shape: Shape, tokenizer: Tokenizer, name: str) -> None:
    values = {
        "general.architecture": ARCHITECTURE,
        "general.name": name,
        "general.license": "MIT OR Apache-2.0",
        "general.file_type": LAYOUTS["i2_s"].file_type,
        f"{ARCHITECTURE}.vocab_size": shape.vocab_size,
        f"{ARCHITECTURE}.context_length": shape.max_context,
        f"{ARCHITECTURE}.embedding_length": shape.d_model,
        f"{ARCHITECTURE}.block_count": shape.n_layers,
        f"{ARCHITECTURE}.feed_forward_length": shape.d_ff,
        f"{ARCHITECTURE}.rope.dimension_count": shape.head_dim,
        f"{ARCHITECTURE}.rope.freq_base": shape.rope_theta,
        f"{ARCHITECTURE}.attention.head_count": shape.n_heads,
        f"{ARCHITECTURE}.attention.head_count_kv": shape.n_kv_heads,
        f"{ARCHITECTURE}.attention.layer_norm_rms_epsilon": shape.norm_eps,
    }
    vocab = tokenizer.get_vocab()
    by_id = sorted(vocab, key=lambda token: vocab[token])
    kinds = [CONTROL if token in CONTROL_TOKENS else NORMAL for token in by_id]
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    values |= {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": by_id,
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": vocab[BOS],
        "tokenizer.ggml.eos_token_id": vocab[EOS],
        "tokenizer.ggml.eot_token_id": vocab[EOT],
        "tokenizer.ggml.add_bos_token": True,
    }
    for key, value in values.items():
        writer.add(key, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the --out folder of train.py")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--name", default="Tritium demo (Shakespeare)")
    args = parser.parse_args()

    model, tokenizer = load_checkpoint(args.run)
    entries = list(tensors(model))
    with GGUFWriter(args.output) as writer:
        add_metadata(writer, model.shape, tokenizer, args.name)
        for name, shape, layout, _ in entries:
            writer.declare(name, shape, layout)
        for name, _, _, data in entries:
            writer.write(name, data)
    print(f"{args.output}: {args.output.stat().st_size} bytes, {len(entries)} tensors")


if __name__ == "__main__":
    main()
