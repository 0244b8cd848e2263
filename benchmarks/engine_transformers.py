"""transformers, dense bfloat16: the sizes of the published model, weights of no meaning. Arguments: unused, threads.

Its speed does not depend on the weights. Runs in an environment with torch.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from transformers import BitNetConfig, BitNetForCausalLM, __version__


def make_model() -> Any:
    """A model whose weights are small and constant noise, made in place."""
    config = BitNetConfig(
        vocab_size=128_256, hidden_size=2560, intermediate_size=6912, num_hidden_layers=30, num_attention_heads=20,
        num_key_value_heads=5, max_position_embeddings=4096, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = BitNetForCausalLM(config)
    model = model.to(torch.bfloat16).to_empty(device="cpu").eval()
    model.tie_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.01)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model


class Transformers:
    """The model with its cache."""

    def __init__(self) -> None:
        self.model = make_model()

    def forward(self, n: int, cache: Any) -> tuple[int, Any]:
        """Forward n tokens after those in ``cache``; nanoseconds and the cache."""
        ids = torch.tensor([[2654435761 * (i + 1) % 128_256 for i in range(n)]])
        start = time.perf_counter_ns()
        with torch.inference_mode():
            out = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        self.logits = out.logits
        return time.perf_counter_ns() - start, out.past_key_values

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """``decode`` and ``prefill`` are timed; ``hash`` tells whether the last logits are numbers."""
        do = request["do"]
        if do == "decode":
            _, cache = self.forward(request["context"], None)
            times = []
            for _ in range(request["tokens"]):
                ns, cache = self.forward(1, cache)
                times.append(ns)
            return {"ns": times}
        ns, _ = self.forward(request["tokens"], None)
        return {"ns": [ns]} if do == "prefill" else {"is_sane": bool(torch.isfinite(self.logits).all())}


def main() -> None:
    """Load, say so, then answer until the input ends."""
    torch.set_num_threads(int(sys.argv[2]))
    start = time.perf_counter_ns()
    engine = Transformers()
    about = {
        "load_s": (time.perf_counter_ns() - start) / 1e9,
        "version": f"transformers {__version__}, torch {torch.__version__}",
    }
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        print(json.dumps(engine.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
