"""Measure an exported model in bits per byte with NumPy alone: an independent reading of the file and of the graph.

Usage: python eval.py demo.gguf --text tinyshakespeare.txt

The GGUF reader, the tokenizer and the forward pass below share no code with the package or with the training script.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

Floats = NDArray[np.float32]

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
F32, F16, I2_S = 0, 1, 36
SPLITS = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
}


class File:
    """Metadata and tensors of a GGUF file. I2_S tensors become (trits i8, scale f32), the others f32 arrays."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.position = 4
        if self.data[:4] != b"GGUF":
            raise SystemExit(f"{path}: not a GGUF file")
        _, n_tensors, n_keys = self.read("I"), self.read("Q"), self.read("Q")
        self.metadata = {self.string(): self.value(self.read("I")) for _ in range(n_keys)}
        infos = []
        for _ in range(n_tensors):
            name = self.string()
            shape = tuple(self.read("Q") for _ in range(self.read("I")))[::-1]
            infos.append((name, shape, self.read("I"), self.read("Q")))
        alignment = self.metadata.get("general.alignment", 32)
        base = -(-self.position // alignment) * alignment
        self.tensors = {name: self.tensor(shape, kind, base + at) for name, shape, kind, at in infos}

    def read(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.data, self.position)
        self.position += struct.calcsize("<" + code)
        return value

    def string(self) -> str:
        size = self.read("Q")
        self.position += size
        return self.data[self.position - size : self.position].decode()

    def value(self, kind: int) -> Any:
        if kind == 8:
            return self.string()
        if kind == 9:
            item = self.read("I")
            return [self.value(item) for _ in range(self.read("Q"))]
        return self.read(SCALARS[kind])

    def tensor(self, shape: tuple[int, ...], kind: int, at: int) -> Any:
        count = math.prod(shape)
        if kind == F32:
            return np.frombuffer(self.data, "<f4", count, at).reshape(shape)
        if kind == F16:
            return np.frombuffer(self.data, "<f2", count, at).astype(np.float32).reshape(shape)
        if kind != I2_S:
            raise SystemExit(f"tensor type {kind} is not one that the exporter writes")
        packed = np.frombuffer(self.data, np.uint8, count // 4, at).reshape(-1, 1, 32)
        codes = (packed >> np.array([[6], [4], [2], [0]], np.uint8)) & 3
        (scale,) = struct.unpack_from("<f", self.data, at + count // 4)
        return codes.astype(np.int8).reshape(shape) - np.int8(1), np.float32(scale)


def tokenizer_of(file: File) -> Tokenizer:
    keys = file.metadata
    vocab = {token: i for i, token in enumerate(keys["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in keys["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    split = pre_tokenizers.Split(Regex(SPLITS[keys["tokenizer.ggml.pre"]]), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return tokenizer


class Network:
    """The `bitnet-b1.58` forward pass of one sequence from position 0: ids (T,) → logits (T, vocab_size) f32."""

    def __init__(self, file: File) -> None:
        prefix = file.metadata["general.architecture"] + "."
        keys = {name.removeprefix(prefix): value for name, value in file.metadata.items() if name.startswith(prefix)}
        self.tensors = file.tensors
        self.n_layers = keys["block_count"]
        self.n_heads = keys["attention.head_count"]
        self.n_kv_heads = keys["attention.head_count_kv"]
        self.head_dim = keys["rope.dimension_count"]
        self.eps = np.float32(keys["attention.layer_norm_rms_epsilon"])
        self.theta = keys["rope.freq_base"]
        self.max_context = keys["context_length"]
        self.zeros_before_down = [0, 0]

    def norm(self, x: Floats, name: str) -> Floats:
        mean = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
        return np.asarray(x / np.sqrt(mean + self.eps) * self.tensors[f"{name}.weight"], np.float32)

    def linear(self, x: Floats, *names: str) -> list[Floats]:
        peak = np.maximum(np.abs(x).max(axis=-1, keepdims=True), np.float32(1e-5))
        codes = np.clip(np.rint(x * (np.float32(127) / peak)), -128, 127)
        if names[0].endswith("ffn_down"):
            self.zeros_before_down[0] += int((codes == 0).sum())
            self.zeros_before_down[1] += codes.size
        outputs = []
        for name in names:
            trits, scale = self.tensors[f"{name}.weight"]
            # Sums of int8 × trit stay far below 2**24, so this float32 product is exact in any order.
            outputs.append((codes @ trits.astype(np.float32).T) * (peak / np.float32(127) * scale))
        return outputs

    def rotate(self, x: Floats) -> Floats:
        half = self.head_dim // 2
        angles = np.outer(np.arange(len(x)), self.theta ** -(np.arange(half) / half))[:, None, :]
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        low, high = x[..., :half], x[..., half:]
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)

    def attention(self, q: Floats, k: Floats, v: Floats) -> Floats:
        n = len(q)
        q = self.rotate(q.reshape(n, self.n_heads, self.head_dim))
        k = self.rotate(k.reshape(n, self.n_kv_heads, self.head_dim))
        group = self.n_heads // self.n_kv_heads
        # The engine's cache holds float16.
        k, v = (x.astype(np.float16).astype(np.float32) for x in (k, v.reshape(n, self.n_kv_heads, self.head_dim)))
        k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
        scores = q.transpose(1, 0, 2) @ k.transpose(1, 2, 0) / np.float32(math.sqrt(self.head_dim))
        scores += np.triu(np.full((n, n), -np.inf, np.float32), 1)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed: Floats = (weights @ v.transpose(1, 0, 2)).transpose(1, 0, 2).reshape(n, -1)
        return mixed

    def logits(self, ids: list[int]) -> Floats:
        h = self.tensors["token_embd.weight"][ids]
        for n in range(self.n_layers):
            blk = f"blk.{n}."
            q, k, v = self.linear(self.norm(h, blk + "attn_norm"), blk + "attn_q", blk + "attn_k", blk + "attn_v")
            mixed = self.norm(self.attention(q, k, v), blk + "attn_sub_norm")
            h = h + self.linear(mixed, blk + "attn_output")[0]
            gate, up = self.linear(self.norm(h, blk + "ffn_norm"), blk + "ffn_gate", blk + "ffn_up")
            inner = self.norm(np.square(np.maximum(gate, 0)) * up, blk + "ffn_sub_norm")
            h = h + self.linear(inner, blk + "ffn_down")[0]
        logits: Floats = self.norm(h, "output_norm") @ self.tensors["token_embd.weight"].T
        return logits


def windows(ids: list[int], bos: int, context: int) -> Iterator[tuple[list[int], list[int]]]:
    """Consecutive windows, each read after its own BOS; every id is a target exactly once."""
    for start in range(0, len(ids), context):
        targets = ids[start : start + context]
        yield [bos, *targets[:-1]], targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True, help="the whole training text; its last 5 %% is the test")
    parser.add_argument("--context", type=int, help="window length in tokens (default: the model's)")
    args = parser.parse_args()

    file = File(args.model)
    network = Network(file)
    whole = args.text.read_bytes()
    held = whole[len(whole) * 95 // 100 :]
    ids = tokenizer_of(file).encode(held.decode()).ids
    nats = 0.0
    for inputs, targets in windows(
        ids, file.metadata["tokenizer.ggml.bos_token_id"], args.context or network.max_context
    ):
        logits = network.logits(inputs).astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        picked = logits[np.arange(len(targets)), targets]
        nats += float((np.log(np.exp(logits).sum(axis=-1)) - picked).sum())
    ternary = [value[0] for value in file.tensors.values() if isinstance(value, tuple)]
    zeros = sum(int((trits == 0).sum()) for trits in ternary)
    report = {
        "bytes": len(held),
        "tokens": len(ids),
        "nats_per_token": round(nats / len(ids), 4),
        "bits_per_byte": round(nats / math.log(2) / len(held), 4),
        "zero_trits": round(zeros / sum(trits.size for trits in ternary), 4),
        "zeros_before_down": round(network.zeros_before_down[0] / network.zeros_before_down[1], 4),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
