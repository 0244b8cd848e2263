"""Llama with ternary linear layers: Falcon3-1.58bit, Falcon-E, Llama3-8B-1.58.

GGUF files of this architecture store the rows of q and k permuted, so that RoPE rotates neighbors (2i, 2i + 1).
Sources: Touvron et al. 2023; the GGUF converters' convention for ``llama``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritium.graph import GraphBuilder
from tritium.ir import Graph
from tritium.models.hyperparameters import read_config
from tritium.types import TensorInfo

ARCHITECTURES = ("llama",)


def graph(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Graph:
    """Describe the forward pass."""
    c = read_config(metadata, tensors, activation="silu", rope_style="interleaved", sub_norms=False)
    g = GraphBuilder(c, tensors)
    x = g.embedding("token_embd")
    for i in range(c.n_layers):
        with g.block(i):
            h = g.quantize(g.rmsnorm(x, "attn_norm"))
            q = g.linear(h, "attn_q", c.n_heads * c.head_dim)
            k = g.linear(h, "attn_k", c.n_kv_heads * c.head_dim)
            v = g.linear(h, "attn_v", c.n_kv_heads * c.head_dim)
            a = g.attention(g.rope_kv(q, k, v))
            x = g.add(x, g.linear(g.quantize(a), "attn_output", c.d_model))

            h = g.quantize(g.rmsnorm(x, "ffn_norm"))
            f = g.gated(g.linear(h, "ffn_gate", c.d_ff), g.linear(h, "ffn_up", c.d_ff))
            x = g.add(x, g.linear(g.quantize(f), "ffn_down", c.d_model))
    g.logits(g.rmsnorm(g.output_rows(x), "output_norm"), "token_embd" if c.tied_head else "output")
    return g.build()
