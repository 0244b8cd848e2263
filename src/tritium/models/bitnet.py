"""BitNet b1.58: ternary linear layers with a norm in front of each group of them, grouped-query attention, a gated FFN.

``bitnet-b1.58`` and ``bitnet-25`` (Microsoft) use relu², ``bitnet`` (llama.cpp's name for the 1bitLLM models) uses
SiLU; the file has no key for it. Sources: Ma et al. 2024; the BitNet b1.58 2B4T technical report, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tritium.graph import GraphBuilder
from tritium.ir import Graph
from tritium.models.hyperparameters import read_config
from tritium.types import TensorInfo

ARCHITECTURES = ("bitnet-b1.58", "bitnet-25", "bitnet")


def graph(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Graph:
    """Describe the forward pass."""
    upstream = metadata["general.architecture"] == "bitnet"
    activation: Literal["relu2", "silu"] = "silu" if upstream else "relu2"
    c = read_config(metadata, tensors, activation=activation, rope_style="half", sub_norms=True)
    g = GraphBuilder(c, tensors)
    x = g.embedding("token_embd")
    for i in range(c.n_layers):
        with g.block(i):
            h = g.quantize(g.rmsnorm(x, "attn_norm"))
            q = g.linear(h, "attn_q", c.n_heads * c.head_dim)
            k = g.linear(h, "attn_k", c.n_kv_heads * c.head_dim)
            v = g.linear(h, "attn_v", c.n_kv_heads * c.head_dim)
            a = g.attention(g.rope_kv(q, k, v))
            x = g.add(x, g.linear(g.quantize(g.rmsnorm(a, "attn_sub_norm")), "attn_output", c.d_model))

            h = g.quantize(g.rmsnorm(x, "ffn_norm"))
            f = g.gated(g.linear(h, "ffn_gate", c.d_ff), g.linear(h, "ffn_up", c.d_ff))
            x = g.add(x, g.linear(g.quantize(g.rmsnorm(f, "ffn_sub_norm")), "ffn_down", c.d_model))
    g.logits(g.rmsnorm(g.output_rows(x), "output_norm"), "token_embd" if c.tied_head else "output")
    return g.build()
