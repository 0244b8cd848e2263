"""llama.cpp through llama-cpp-python's C interface, as its own llama-bench drives it: no sampling. Arguments: file, threads.

Runs in an environment without Tritium. The prompt is one batch, flash attention as it chooses, cache in float16.
"""

from __future__ import annotations

import ctypes
import json
import math
import sys
import time
from typing import Any

import llama_cpp

CONTEXT = 1024


class LlamaCpp:
    """A model and its context."""

    def __init__(self, path: str, n_threads: int) -> None:
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp does not load {path}")
        params = llama_cpp.llama_context_default_params()
        self.settings = {name: int(getattr(params, name)) for name in ("n_batch", "n_ubatch", "flash_attn_type")}
        params.n_ctx = CONTEXT
        params.n_threads = params.n_threads_batch = n_threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit("llama.cpp refuses a context")
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def prompt(self, n: int) -> list[int]:
        """Token ids spread over the vocabulary: those that the other engines get."""
        return [2654435761 * (i + 1) % self.vocab_size for i in range(n)]

    def clear(self) -> None:
        """Empty the cache."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def decode(self, tokens: list[int]) -> int:
        """Forward tokens as one batch, logits of the last; nanoseconds."""
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        start = time.perf_counter_ns()
        code = llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(array, len(tokens)))
        llama_cpp.llama_synchronize(self.context)
        elapsed = time.perf_counter_ns() - start
        if code:
            raise SystemExit(f"llama.cpp failed to decode: {code}")
        return elapsed

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """``decode`` and ``prefill`` are timed; ``hash`` tells whether the last logits are numbers that differ."""
        do = request["do"]
        self.clear()
        if do == "prefill":
            return {"ns": [self.decode(self.prompt(request["tokens"]))]}
        if do == "decode":
            self.decode(self.prompt(request["context"]))
            return {"ns": [self.decode([token]) for token in self.prompt(request["tokens"])]}
        if do == "hash":
            self.decode(self.prompt(request["tokens"]))
            logits = llama_cpp.llama_get_logits_ith(self.context, -1)[: self.vocab_size]
            return {"is_sane": all(map(math.isfinite, logits)) and max(logits) > min(logits)}
        raise ValueError(f"unknown request {do!r}")


def main() -> None:
    """Load, say so, then answer until the input ends."""
    log = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)
    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    start = time.perf_counter_ns()
    engine = LlamaCpp(sys.argv[1], int(sys.argv[2]))
    about = {
        "load_s": (time.perf_counter_ns() - start) / 1e9,
        "version": f"llama-cpp-python {llama_cpp.__version__}",
        "system": llama_cpp.llama_print_system_info().decode(),
        "settings": engine.settings,
    }
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        print(json.dumps(engine.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
