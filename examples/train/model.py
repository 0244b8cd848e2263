"""The `bitnet-b1.58` graph in PyTorch, with quantizers in the forward pass (quantization-aware training)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; names as everywhere in the project."""

    vocab_size: int = 1024
    d_model: int = 256
    d_ff: int = 768
    n_layers: int = 5
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 64
    max_context: int = 512
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5


def quantize_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize activations to int8 codes held as float32, one scale per token, with a straight-through gradient.

    q = clip(round_half_even(x · (127 / a)), −128, 127),  a = max(max_k |x|, 1e-5),  scale = a / 127

    Shapes: x (..., K) f32 → q (..., K) f32 of integers, scale (..., 1) f32, with x ≈ scale·q.
    """
    peak = x.detach().abs().amax(dim=-1, keepdim=True).clamp_min(1e-5)
    exact = x * (127.0 / peak)
    codes = exact.detach().round().clamp(-128.0, 127.0)
    return exact + (codes - exact.detach()), peak / 127.0


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize a weight matrix to trits held as float32, one scale per tensor, with a straight-through gradient.

    s = max(mean |W|, 1e-5),  trit = clip(round_half_even(W / s), −1, 1)

    Shapes: weight (N, K) f32 → trits (N, K) f32 of {−1, 0, 1}, scale () f32, with W ≈ scale·trit.
    """
    scale = weight.detach().abs().mean().clamp_min(1e-5)
    exact = weight / scale
    trits = exact.detach().round().clamp(-1.0, 1.0)
    return exact + (trits - exact.detach()), scale


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x²) + eps) · weight."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.eps) * self.weight


class BitLinear(nn.Module):
    """One or more ternary matrices that read the same quantized input; the outputs are returned side by side.

    y_i = (q · trits_iᵀ) · (scale_x · scale_i); with `ternary=False` the plain product x · W_iᵀ. The products run in
    `matmul_dtype`: bfloat16 holds int8 codes and trits exactly, so only the result of the product is rounded.
    """

    def __init__(self, d_in: int, d_outs: list[int], gain: float = 1.0) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(n, d_in) * (gain / d_in**0.5)) for n in d_outs)

    def forward(self, x: Tensor, ternary: bool, matmul_dtype: torch.dtype) -> list[Tensor]:
        if not ternary:
            return [functional.linear(x.to(matmul_dtype), w.to(matmul_dtype)).float() for w in self.weights]
        codes, scale_x = quantize_activations(x)
        codes = codes.to(matmul_dtype)
        outputs = []
        for weight in self.weights:
            trits, scale_w = quantize_weight(weight)
            outputs.append(functional.linear(codes, trits.to(matmul_dtype)).float() * (scale_x * scale_w))
        return outputs


def rope_tables(shape: Shape) -> tuple[Tensor, Tensor]:
    """Cosines and sines for rotate-half RoPE: (max_context, head_dim) each, halves repeated."""
    half = torch.arange(0, shape.head_dim, 2, dtype=torch.float64) / shape.head_dim
    angles = torch.outer(torch.arange(shape.max_context, dtype=torch.float64), shape.rope_theta**-half)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (i, i + head_dim/2) of x (B, H, T, head_dim) by its position's angle."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin


class Block(nn.Module):
    """One decoder layer: attention and a gated ReLU² feed-forward network, each with its sub-norm."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        d_q, d_kv = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
        residual_gain = (2 * shape.n_layers) ** -0.5
        self.shape = shape
        self.dropout = dropout
        self.attn_norm = RMSNorm(shape.d_model, shape.norm_eps)
        self.attn_qkv = BitLinear(shape.d_model, [d_q, d_kv, d_kv])
        self.attn_sub_norm = RMSNorm(d_q, shape.norm_eps)
        self.attn_output = BitLinear(d_q, [shape.d_model], residual_gain)
        self.ffn_norm = RMSNorm(shape.d_model, shape.norm_eps)
        self.ffn_gate_up = BitLinear(shape.d_model, [shape.d_ff, shape.d_ff])
        self.ffn_sub_norm = RMSNorm(shape.d_ff, shape.norm_eps)
        self.ffn_down = BitLinear(shape.d_ff, [shape.d_model], residual_gain)

    def heads(self, x: Tensor, n: int) -> Tensor:
        return x.view(x.shape[0], x.shape[1], n, self.shape.head_dim).transpose(1, 2)

    def forward(self, h: Tensor, cos: Tensor, sin: Tensor, ternary: bool, dtype: torch.dtype) -> Tensor:
        shape = self.shape
        q, k, v = self.attn_qkv(self.attn_norm(h), ternary, dtype)
        q = rotate(self.heads(q, shape.n_heads), cos, sin)
        k = rotate(self.heads(k, shape.n_kv_heads), cos, sin)
        group = shape.n_heads // shape.n_kv_heads
        k = k.repeat_interleave(group, dim=1)
        v = self.heads(v, shape.n_kv_heads).repeat_interleave(group, dim=1)
        mixed = functional.scaled_dot_product_attention(q.to(dtype), k.to(dtype), v.to(dtype), is_causal=True).float()
        mixed = mixed.transpose(1, 2).reshape(h.shape[0], h.shape[1], -1)
        (out,) = self.attn_output(self.attn_sub_norm(mixed), ternary, dtype)
        h = h + functional.dropout(out, self.dropout, self.training)
        gate, up = self.ffn_gate_up(self.ffn_norm(h), ternary, dtype)
        inner = functional.relu(gate).square() * up
        (out,) = self.ffn_down(self.ffn_sub_norm(inner), ternary, dtype)
        return h + functional.dropout(out, self.dropout, self.training)


class BitNet(nn.Module):
    """Token ids (B, T) i64 → logits (B, T, vocab_size) f32; the embedding matrix is also the head."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.dropout = dropout
        self.token_embd = nn.Parameter(torch.randn(shape.vocab_size, shape.d_model) * 0.05)
        self.blocks = nn.ModuleList(Block(shape, dropout) for _ in range(shape.n_layers))
        self.output_norm = RMSNorm(shape.d_model, shape.norm_eps)
        cos, sin = rope_tables(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, ids: Tensor, ternary: bool = True, dtype: torch.dtype = torch.float32) -> Tensor:
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        h = functional.dropout(functional.embedding(ids, self.token_embd), self.dropout, self.training)
        for block in self.blocks:
            h = block(h, cos, sin, ternary, dtype)
        hidden = self.output_norm(h)
        return functional.linear(hidden.to(dtype), self.token_embd.to(dtype)).float()
