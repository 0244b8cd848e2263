"""Agreement with Hugging Face transformers in float32 on random ternary weights. Needs the ``crossval`` extra."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forwarding import forward, token_sequences
from tiny_models import TINY, write_tiny
from tritium import backends
from tritium.executor import Executor
from tritium.formats.gguf import GGUFFile, open_gguf
from tritium.models import build_graph
from tritium.plan import make_plan
from tritium.types import ModelConfig

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
torch = pytest.importorskip("torch", reason="the crossval extra is not installed")
transformers = pytest.importorskip("transformers", reason="the crossval extra is not installed")

NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_sub_norm": "self_attn.attn_sub_norm", "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_sub_norm": "mlp.ffn_sub_norm", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def their_name(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{NAMES[parts[2]]}"
    return NAMES[parts[0]]


def their_model(config: ModelConfig, file: GGUFFile) -> Any:
    """A float32 model of theirs with the file's weights, its linears replaced by their own ternary ones."""
    sizes = {
        "vocab_size": config.vocab_size, "hidden_size": config.d_model, "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers, "num_attention_heads": config.n_heads, "head_dim": config.head_dim,
        "num_key_value_heads": config.n_kv_heads, "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_context, "tie_word_embeddings": config.tied_head,
        "hidden_act": {"relu2": "relu2", "silu": "silu"}[config.activation],
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
    }  # fmt: skip
    if config.sub_norms:
        made = transformers.BitNetForCausalLM(transformers.BitNetConfig(**sizes))
    else:
        made = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    linear = transformers.integrations.bitnet.AutoBitLinear
    for name, info in file.tensors.items():
        target, weight = their_name(name), file.unpack(name)
        if config.rope_style == "interleaved" and ("attn_q." in name or "attn_k." in name):
            pairs = weight.reshape(-1, config.head_dim // 2, 2, config.d_model)
            weight = np.ascontiguousarray(pairs.transpose(0, 2, 1, 3)).reshape(info.shape)
        if info.layout == "i2_s":
            _, scale = file.trits(name)
            module = linear(info.shape[1], info.shape[0], bias=False)
            module.weight.data = torch.tensor(weight / scale)
            module.weight_scale.data = torch.tensor(scale)
            made.set_submodule(target, module)
        else:
            made.get_submodule(target).weight.data = torch.tensor(weight)
    made.tie_weights()
    return made.float().eval()


@pytest.mark.parametrize(
    "name", [name for name in TINY if TINY[name].architecture != "bitnet"] + ["silu_gqa_tied_head_dim_20"]
)
def test_logits_agree_with_transformers(name: str, tmp_path: Path) -> None:
    with open_gguf(write_tiny(tmp_path / "m.gguf", name)) as file:
        graph = build_graph(file.metadata, file.tensors)
        plan = make_plan(graph, backends.find("reference"), max_outputs=512)
        tokens = token_sequences(graph.config.vocab_size, (128,))
        with Executor(plan, file, kv_blocks=4) as executor:
            ours = forward(executor, tokens, None)[0].astype(np.float64)
        with torch.no_grad():
            theirs = (
                their_model(graph.config, file)(torch.tensor(tokens[0][None].astype(np.int64)))
                .logits[0]
                .double()
                .numpy()
            )
    cosine = (ours * theirs).sum(1) / np.sqrt((ours**2).sum(1) * (theirs**2).sum(1))
    noise = np.abs(ours - theirs).max(axis=1)
    ranked = np.sort(ours, axis=1)
    margin = ranked[:, -1] - ranked[:, -2]
    same = ours.argmax(1) == theirs.argmax(1)
    print(f"{name}: cosine min {cosine.min():.6f} median {np.median(cosine):.8f}, max abs {noise.max():.4f} of "
          f"{np.abs(ours).max():.1f}, top-1 equal {same.mean():.3f}")  # fmt: skip
    assert cosine.min() >= 0.999
    assert same[margin > 2 * noise].all()
