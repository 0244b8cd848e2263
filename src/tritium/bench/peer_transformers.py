"""Hugging Face transformers as a peer: its BitNet or Llama in PyTorch, the ternary layers as its own quantized modules."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from tritium.bench.peers import Capture, Difference
from tritium.bench.walk import Values, Variation, keys_name, values_name
from tritium.errors import UnsupportedError
from tritium.formats.gguf import GGUFFile
from tritium.ir import Graph
from tritium.numerics import F32
from tritium.types import ModelConfig

VARIANTS: Mapping[str, str] = {
    "offline": "AutoBitLinear in float32: trits and a scale that multiplies",
    "online": "AutoBitLinear in float32: master weights, quantized in each forward pass",
    "packed": "BitLinear in float32: uint8 with four rows a byte, and a scale that divides",
    "offline-bf16": "as offline, in bfloat16",
    "online-bf16": "as online, in bfloat16",
    "packed-bf16": "as packed, in bfloat16",
}


def _quantized_modules() -> Any:
    """Their ternary modules, their functions uncompiled: the decorators load a compiler at import, for nothing here."""
    compiling = torch.compile
    torch.compile = lambda function: function
    try:
        return importlib.import_module("transformers.integrations.bitnet")
    finally:
        torch.compile = compiling


quantized = _quantized_modules()

_NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_sub_norm": "self_attn.attn_sub_norm", "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_sub_norm": "mlp.ffn_sub_norm", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def module_name(tensor: str) -> str:
    """The module of theirs that holds a tensor of a GGUF file: "blk.3.attn_q.weight" → "model.layers.3.self_attn.q_proj"."""
    parts = tensor.split(".")
    return f"model.layers.{parts[1]}.{_NAMES[parts[2]]}" if parts[0] == "blk" else _NAMES[parts[0]]


def open_peer(graph: Graph, file: GGUFFile, variant: str, threads: int | None) -> TransformersPeer:
    """Build the model. Errors: UnsupportedError for a graph that transformers does not have."""
    return TransformersPeer(graph, file, variant, threads)


class TransformersPeer:
    """Their model with the file's weights; see ``tritium.bench.peers.Peer``."""

    name = "transformers"

    def __init__(self, graph: Graph, file: GGUFFile, variant: str, threads: int | None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._graph, self._file = graph, file
        self._kind, _, suffix = variant.partition("-")
        self.is_float32 = suffix == ""
        self.version = f"{transformers.__version__}, torch {torch.__version__}"
        self.settings = {"variant": variant, "holds": VARIANTS[variant], "attention": "eager"}
        self.model = _build(graph, file, self._kind)
        if not self.is_float32:
            self.model.to(torch.bfloat16)
            for module in self.model.modules():
                if isinstance(module, quantized.BitLinear):
                    module.dtype = torch.bfloat16

    def run(self, ids: NDArray[np.int32], *, capture: bool) -> Capture:
        """Forward the tokens, with ``capture`` recording what enters and leaves every module."""
        if not capture:
            return Capture(_forward(self.model, ids))
        seen: Values = {}
        tables: list[tuple[F32, F32]] = []
        handles = [module.register_forward_hook(hook) for module, hook in self._hooks(seen, tables)]
        try:
            logits = _forward(self.model, ids)
        finally:
            for handle in handles:
                handle.remove()
        values = self._complete(seen, tables[0])
        return Capture(logits, values, self._differences(tables[0]) if self.is_float32 else ())

    def in_float32(self, ids: NDArray[np.int32]) -> F32 | None:
        """The logits of the same weights in float32 modules, where this peer runs in bfloat16."""
        if self.is_float32:
            return None
        return _forward(_build(self._graph, self._file, self._kind), ids)

    def logits(self, ids: Sequence[int]) -> F32:
        """Logits after each token. Shapes: (T,) ids → (T, vocab_size) f32."""
        return _forward(self.model, np.array(ids, np.int32))

    def mean_nats(self, ids: Sequence[int]) -> float:
        """Their own loss: the mean of −ln p over all tokens but the first."""
        tokens = torch.tensor([list(ids)])
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            return float(self.model(tokens, labels=tokens).loss)

    def close(self) -> None:
        """Nothing to release."""

    def _hooks(self, seen: Values, tables: list[tuple[F32, F32]]) -> list[tuple[Any, Callable[..., None]]]:
        out: list[tuple[Any, Callable[..., None]]] = []
        producer = {node.outputs[0]: node for node in self._graph.nodes if node.op == "quantize"}
        for node in self._graph.nodes:
            if node.op not in ("embedding", "rmsnorm", "linear", "logits_projection"):
                continue
            source = None
            if node.op == "linear":
                source = producer[node.inputs[0]].inputs[0]
            elif node.op != "embedding":
                source = node.inputs[0]
            name = "output.weight" if node.op == "logits_projection" else node.weights[0]
            out.append((self.model.get_submodule(module_name(name)), _recorder(seen, source, node.outputs[0])))

        def record_tables(_module: Any, _inputs: Any, output: Any) -> None:
            half = self._graph.config.head_dim // 2
            cos, sin = (_array(part[0])[:, :half] for part in output)
            tables.append((np.ascontiguousarray(cos), np.ascontiguousarray(sin)))

        out.append((self.model.model.rotary_emb, record_tables))
        return out

    def _complete(self, seen: Values, tables: tuple[F32, F32]) -> Values:
        """Add what no module shows: codes by their own quantizer, rotated q and k by their own rotation; in our order."""
        c = self._graph.config
        values = dict(seen)
        for node in self._graph.nodes:
            if node.op == "output_rows":
                values[node.inputs[0]] = seen[node.outputs[0]]
            elif node.op == "quantize":
                linear = next(n for n in self._graph.nodes if n.op == "linear" and n.inputs[0] == node.outputs[0])
                module = self.model.get_submodule(module_name(linear.weights[0]))
                codes, scale = _codes(module, seen[node.inputs[0]], self.is_float32)
                values[node.outputs[0]], values[node.outputs[1]] = codes, scale
            elif node.op == "rope_kv":
                q, k, v = (seen[name] for name in node.inputs)
                layer = int(node.attrs["layer"])
                rotated, keys = _rotate(q, k, tables, c, self.is_float32)
                values[node.outputs[0]] = _in_our_order(rotated, c)
                values[keys_name(layer)] = _in_our_order(keys, c)
                values[values_name(layer)] = v
                values[node.inputs[0]], values[node.inputs[1]] = _in_our_order(q, c), _in_our_order(k, c)
        return values

    def _differences(self, tables: tuple[F32, F32]) -> tuple[Difference, ...]:
        return (
            Difference("cache", "keys and values in float32; ours are float16", Variation(cache="f32")),
            Difference("scale", "int8 codes from x·(127·(1/a)); ours from x·(127/a)", Variation(scaling="reciprocal")),
            Difference("angles", "RoPE angles formed in float32; ours in float64", Variation(tables=tables)),
        )


def _build(graph: Graph, file: GGUFFile, kind: str) -> Any:
    """A float32 model of theirs with the file's weights, its linear layers replaced by their ternary ones."""
    c = graph.config
    if c.sub_norms and c.n_heads * c.head_dim != c.d_model:
        raise UnsupportedError(
            "transformers' BitNet", expected="n_heads · head_dim = d_model", got=c.n_heads * c.head_dim
        )
    with torch.device("meta"):
        made = _empty_model(c)
    made = made.to_empty(device="cpu")
    # to_empty leaves the frequencies of RoPE unset as well.
    made.model.rotary_emb = type(made.model.rotary_emb)(made.config)
    linear = _linear_names(graph)
    for name in file.tensors:
        target = module_name(name)
        is_rotated = c.rope_style == "interleaved" and ("attn_q." in name or "attn_k." in name)
        if name in linear:
            trits, scale = file.trits(name)[0], file.scale(name)
            if scale is None:
                raise UnsupportedError("transformers holds one scale a matrix", where=name, got="a scale a group")
            trits = _halves(trits, c) if is_rotated else trits
            made.set_submodule(target, _LINEAR[kind](trits, scale))
        else:
            made.get_submodule(target).weight = torch.nn.Parameter(torch.tensor(file.unpack(name)), requires_grad=False)
    made.tie_weights()
    return made.eval()


def _empty_model(c: ModelConfig) -> Any:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": c.rope_theta}
    if c.rope_factors:
        rope |= {"rope_type": "linear", "factor": c.rope_factors[0]}
    sizes = {
        "vocab_size": c.vocab_size, "hidden_size": c.d_model, "intermediate_size": c.d_ff,
        "num_hidden_layers": c.n_layers, "num_attention_heads": c.n_heads, "head_dim": c.head_dim,
        "num_key_value_heads": c.n_kv_heads, "rms_norm_eps": c.norm_eps, "max_position_embeddings": c.max_context,
        "tie_word_embeddings": c.tied_head, "hidden_act": c.activation, "rope_parameters": rope,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "attn_implementation": "eager",
    }  # fmt: skip
    if c.sub_norms:
        return transformers.BitNetForCausalLM(transformers.BitNetConfig(**sizes))
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))


def _linear_names(graph: Graph) -> frozenset[str]:
    return frozenset(node.weights[0] for node in graph.nodes if node.op == "linear")


def _offline(trits: NDArray[np.int8], scale: np.float32) -> Any:
    module = quantized.AutoBitLinear(trits.shape[1], trits.shape[0], bias=False, online_quant=False)
    module.weight = torch.nn.Parameter(torch.tensor(trits, dtype=torch.float32), requires_grad=False)
    module.weight_scale.data = torch.tensor([scale])
    return module


def _online(trits: NDArray[np.int8], scale: np.float32) -> Any:
    """Masters ±a whose mean magnitude is the scale, so that quantizing them gives back trits and scale."""
    module = quantized.AutoBitLinear(trits.shape[1], trits.shape[0], bias=False, online_quant=True)
    filled = float(np.count_nonzero(trits)) / trits.size or 1.0
    masters = trits.astype(np.float32) * np.float32(float(scale) / filled)
    module.weight = torch.nn.Parameter(torch.tensor(masters), requires_grad=False)
    return module


def _packed(trits: NDArray[np.int8], scale: np.float32) -> Any:
    rows, columns = trits.shape
    if rows % 4:
        raise UnsupportedError("packed rows", expected="a multiple of 4", got=rows)
    module = quantized.BitLinear(columns, rows, bias=False, dtype=torch.float32)
    codes = (trits + 1).astype(np.uint8).reshape(4, rows // 4, columns)
    packed = codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6
    module.weight = torch.nn.Buffer(torch.tensor(packed))
    module.weight_scale = torch.nn.Buffer(torch.tensor([np.float32(1) / scale]))
    return module


_LINEAR = {"offline": _offline, "online": _online, "packed": _packed}


def _halves(rows: NDArray[Any], c: ModelConfig) -> NDArray[Any]:
    """Rows of q or k whose pairs stand side by side, in the order that rotates halves. Shapes: (heads · d, K)."""
    pairs = rows.reshape(-1, c.head_dim // 2, 2, rows.shape[1])
    return np.ascontiguousarray(pairs.transpose(0, 2, 1, 3)).reshape(rows.shape)


def _in_our_order(x: NDArray[Any], c: ModelConfig) -> NDArray[Any]:
    """Features of q or k in the file's order: the inverse of ``_halves`` on columns. Shapes: (T, heads · d)."""
    if c.rope_style == "half":
        return x
    halves = x.reshape(len(x), -1, 2, c.head_dim // 2)
    return np.ascontiguousarray(halves.transpose(0, 1, 3, 2)).reshape(x.shape)


def _rotate(
    q: NDArray[Any], k: NDArray[Any], tables: tuple[F32, F32], c: ModelConfig, is_float32: bool
) -> tuple[NDArray[Any], NDArray[Any]]:
    dtype = torch.float32 if is_float32 else torch.bfloat16
    cos, sin = (torch.tensor(np.concatenate([part, part], axis=1)[None]).to(dtype) for part in tables)
    heads = [torch.tensor(x.reshape(1, len(x), -1, c.head_dim)).to(dtype).transpose(1, 2) for x in (q, k)]
    rotated = apply_rotary_pos_emb(*heads, cos, sin)
    one, two = (_array(part[0].transpose(0, 1)).reshape(len(q), -1) for part in rotated)
    return one, two


def _codes(module: Any, x: F32, is_float32: bool) -> tuple[NDArray[np.int8], F32]:
    """Their int8 codes (T, K) and scales (T, 1) of an input, by their own function; a scale that multiplies."""
    given = torch.tensor(x).to(torch.float32 if is_float32 else torch.bfloat16)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        if isinstance(module, quantized.BitLinear):
            q, inverse = module.activation_quant(given)
            scale: F32 = np.float32(1) / _array(inverse)
            return q.numpy(), scale
        # ActQuant gives back codes / scale, with scale = 127 / max|x|.
        restored = _array(quantized.ActQuant.apply(given))
    absmax: F32 = np.maximum(np.abs(_array(given)).max(axis=1, keepdims=True), np.float32(1e-5))
    scale = absmax / np.float32(127)
    return np.rint(restored * (np.float32(127) / absmax)).astype(np.int8), scale


def _recorder(seen: Values, source: str | None, target: str) -> Callable[..., None]:
    def record(_module: Any, inputs: Any, output: Any) -> None:
        if source is not None:
            seen.setdefault(source, _array(inputs[0][0]))
        seen[target] = _array(output[0])

    return record


def _array(x: Any) -> F32:
    array: F32 = x.detach().float().numpy().copy()
    return array


def _forward(model: Any, ids: NDArray[np.int32]) -> F32:
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        logits = model(torch.tensor(ids[None].astype(np.int64)), use_cache=False).logits
    return _array(logits[0])
