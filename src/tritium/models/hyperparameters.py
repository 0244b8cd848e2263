"""Read a decoder's hyperparameters from GGUF metadata: checked, never guessed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from tritium.errors import FormatError, UnsupportedError
from tritium.types import ModelConfig, TensorInfo

MAX_SIZE = 1 << 24


def read_config(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    *,
    activation: Literal["relu2", "silu"],
    rope_style: Literal["half", "interleaved"],
    sub_norms: bool,
) -> ModelConfig:
    """The keys ``<architecture>.*`` of a decoder as a ModelConfig.

    The vocabulary is the embedding's height, and ``vocab_size`` must agree when present; head_dim is ``attention.key_length`` or
    d_model / n_heads. Errors: FormatError names the key; UnsupportedError a RoPE variant that is not computed here.
    """
    architecture = metadata["general.architecture"]

    def size(key: str, default: int | None = None) -> int:
        full = f"{architecture}.{key}"
        value = metadata.get(full, default)
        if value is None:
            raise FormatError("missing key", where=full)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_SIZE:
            raise FormatError("key out of range", where=full, expected=f"an integer from 1 to {MAX_SIZE}", got=value)
        return value

    def positive(key: str, default: float | None = None) -> float:
        full = f"{architecture}.{key}"
        value = metadata.get(full, default)
        if value is None:
            raise FormatError("missing key", where=full)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise FormatError("key out of range", where=full, expected="a positive finite number", got=value)
        return float(value)

    embedding = tensors.get("token_embd.weight")
    if embedding is None:
        raise FormatError("missing tensor", where="token_embd.weight")
    n_heads, d_model = size("attention.head_count"), size("embedding_length")
    n_kv_heads = size("attention.head_count_kv", n_heads)
    head_dim = size("attention.key_length", d_model // n_heads or None)
    _check_heads(architecture, n_heads, n_kv_heads, head_dim, metadata)
    vocab_size = size("vocab_size", embedding.shape[0])
    if vocab_size != embedding.shape[0]:
        raise FormatError("vocabulary and embedding differ", where=f"{architecture}.vocab_size", expected=embedding.shape[0],
                          got=vocab_size)  # fmt: skip
    return ModelConfig(
        architecture=architecture,
        vocab_size=vocab_size,
        n_layers=size("block_count"),
        d_model=d_model,
        d_ff=size("feed_forward_length"),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        norm_eps=positive("attention.layer_norm_rms_epsilon"),
        rope_theta=positive("rope.freq_base", 10000.0),
        rope_style=rope_style,
        activation=activation,
        sub_norms=sub_norms,
        tied_head="output.weight" not in tensors,
        max_context=size("context_length"),
        rope_factors=_rope_factors(architecture, metadata, head_dim),
    )


def _check_heads(architecture: str, n_heads: int, n_kv_heads: int, head_dim: int, metadata: Mapping[str, Any]) -> None:
    if n_heads % n_kv_heads:
        raise FormatError("query heads do not divide among key-value heads", where=f"{architecture}.attention.head_count_kv",
                          expected=f"a divisor of {n_heads}", got=n_kv_heads)  # fmt: skip
    if head_dim % 2 or head_dim > 256:
        raise UnsupportedError("head_dim", where=f"{architecture}.attention.key_length", expected="an even number up to 256",
                               got=head_dim)  # fmt: skip
    value_length = metadata.get(f"{architecture}.attention.value_length", head_dim)
    if value_length != head_dim:
        raise UnsupportedError("keys and values differ in length", where=f"{architecture}.attention.value_length",
                               expected=head_dim, got=value_length)  # fmt: skip
    rotated = metadata.get(f"{architecture}.rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise UnsupportedError(
            "partial rotation", where=f"{architecture}.rope.dimension_count", expected=head_dim, got=rotated
        )


def _rope_factors(architecture: str, metadata: Mapping[str, Any], head_dim: int) -> tuple[float, ...]:
    kind = metadata.get(f"{architecture}.rope.scaling.type", "none")
    if kind == "none":
        return ()
    if kind != "linear":
        raise UnsupportedError(
            "RoPE scaling", where=f"{architecture}.rope.scaling.type", expected="none or linear", got=kind
        )
    key = f"{architecture}.rope.scaling.factor"
    factor = metadata.get(key, 1.0)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
        raise FormatError("key out of range", where=key, expected="a positive finite number", got=factor)
    return () if factor == 1.0 else (float(factor),) * (head_dim // 2)
