"""What a kernel id means: the rows of the kernel table, and a hand-kept section of ids that are no rows of it."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Literal

from tritium.kernel_table import kernel_table

Kind = Literal["quantized", "neutral", "fallback", "gpu", "mock"]
Status = Literal["current", "historic"]

GPU_PATTERNS = (
    "gemm_*", "wmma_*", "cublas_*", "cutlass_*", "cuda_*", "tl1_gpu_*", "tl2_gpu_*", "i2s_gpu_*", "i2s_quantize",
    "i2s_dequantize", "attention_cuda", "triton_*",
)  # fmt: skip
QUANTIZED_PREFIXES = ("i2s_", "tl1_", "tl2_", "qk256_", "tq1_", "tq2_", "q2_")
FALLBACK_PREFIXES = ("fp32_", "fallback_", "dequant_")

SKIP_REASONS = {"i2_s": "zero_gate", "i2s_columns": "zero_code"}
"""Layouts whose linear kernels skip work, and why: rows behind a gate that is not open, columns of a code that is zero."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A kernel id: what it computes, on which weights and instruction set, and whether Tritium still writes it.

    ``isa`` is "any" where the id does not say; ``layout`` "none" where no weight's layout matters, "any" where it is not told.
    """

    id: str
    op: str
    layout: str
    isa: str
    backend: str
    kind: Kind
    status: Status


def _reference() -> tuple[Entry, ...]:
    """The reference back end has one kernel an op."""
    ops = dict.fromkeys(row.op for row in kernel_table()) | {"add": None}
    return tuple(
        Entry(f"{op}_reference", op, "any", "any", "reference", "quantized" if op == "linear" else "neutral", "current")
        for op in ops
    )


_HISTORIC = (
    Entry("i2s_gemv", "linear", "i2s", "any", "cpu", "quantized", "historic"),
    Entry("i2s_gemm", "linear", "i2s", "any", "cpu", "quantized", "historic"),
    Entry("i2s_matmul_avx2", "linear", "i2s", "avx2", "cpu", "quantized", "historic"),
    Entry("i2s_matmul_avx512", "linear", "i2s", "avx512vnni", "cpu", "quantized", "historic"),
    Entry("i2s_matmul_scalar", "linear", "i2s", "scalar", "cpu", "quantized", "historic"),
    Entry("i2s_cpu_*", "linear", "i2s", "any", "cpu", "quantized", "historic"),
    Entry("i2s_cpu_quantized_matmul", "linear", "i2s", "any", "cpu", "quantized", "historic"),
    Entry("tl1_lookup_neon", "linear", "tl1", "neon", "cpu", "quantized", "historic"),
    Entry("tl1_forward", "linear", "tl1", "any", "cpu", "quantized", "historic"),
    Entry("tl2_forward", "linear", "tl2", "any", "cpu", "quantized", "historic"),
    Entry("qk256_scalar_*", "linear", "qk256", "scalar", "cpu", "quantized", "historic"),
    Entry("embedding_lookup", "embedding", "any", "any", "any", "neutral", "historic"),
    Entry("prefill_forward", "forward", "any", "any", "any", "neutral", "historic"),
    Entry("decode_forward", "forward", "any", "any", "any", "neutral", "historic"),
    Entry("rope_apply", "rope_kv", "none", "any", "any", "neutral", "historic"),
    Entry("attention_real", "attention", "none", "any", "any", "neutral", "historic"),
    Entry("logits_projection", "logits_projection", "any", "any", "any", "neutral", "historic"),
    Entry("quantize_*", "quantize", "none", "any", "any", "neutral", "historic"),
    Entry("tl1_gpu_*", "linear", "tl1", "any", "cuda", "gpu", "historic"),
    Entry("tl2_gpu_*", "linear", "tl2", "any", "cuda", "gpu", "historic"),
    Entry("i2s_gpu_*", "linear", "i2s", "any", "cuda", "gpu", "historic"),
    Entry("i2s_quantize", "quantize", "i2s", "any", "cuda", "gpu", "historic"),
    Entry("i2s_dequantize", "dequantize", "i2s", "any", "cuda", "gpu", "historic"),
    Entry("attention_cuda", "attention", "none", "any", "cuda", "gpu", "historic"),
    Entry("gemm_*", "linear", "any", "any", "cuda", "gpu", "historic"),
    Entry("wmma_*", "linear", "any", "any", "cuda", "gpu", "historic"),
    Entry("cublas_*", "linear", "any", "any", "cuda", "gpu", "historic"),
    Entry("cutlass_*", "linear", "any", "any", "cuda", "gpu", "historic"),
    Entry("cuda_*", "any", "any", "any", "cuda", "gpu", "historic"),
    Entry("triton_*", "any", "any", "any", "cuda", "gpu", "historic"),
    Entry("fp32_*", "linear", "f32", "any", "any", "fallback", "historic"),
    Entry("fallback_*", "any", "any", "any", "any", "fallback", "historic"),
    Entry("dequant_*", "dequantize", "any", "any", "any", "fallback", "historic"),
    Entry("*_dequant", "dequantize", "any", "any", "any", "fallback", "historic"),
    Entry("matmul_f32", "linear", "f32", "any", "any", "fallback", "historic"),
    Entry("mock*", "any", "any", "any", "null", "mock", "historic"),
    Entry("null", "any", "any", "any", "null", "mock", "current"),
)
"""Ids of other tools and of earlier times: read, never written. A star stands for any text."""


@cache
def entries() -> dict[str, Entry]:
    """All entries by id, those of the kernel table first."""
    kinds: dict[str, Kind] = {"quantized": "quantized", "neutral": "neutral", "fallback": "fallback", "gpu": "gpu"}
    table = (Entry(r.id, r.op, r.layout, r.isa, "cpu", kinds[r.kind], "current") for r in kernel_table())
    return {entry.id: entry for entry in (*table, *_reference(), *_HISTORIC)}


@cache
def find(kernel: str) -> Entry | None:
    """The entry of an id: its own, else the first pattern that it matches; None if it is unknown."""
    known = entries()
    exact = known.get(kernel)
    if exact is not None:
        return exact
    return next((e for e in known.values() if "*" in e.id and fnmatchcase(kernel, e.id)), None)


def skip_reason(kernel: str) -> str | None:
    """Why a linear kernel may skip work, or None if it may not."""
    entry = find(kernel)
    return SKIP_REASONS.get(entry.layout) if entry is not None and entry.op == "linear" else None


def suggest(kernel: str) -> str | None:
    """The known id that looks most like an unknown one, or None if none does."""
    close = difflib.get_close_matches(kernel, [name for name in entries() if "*" not in name], n=1, cutoff=0.6)
    return close[0] if close else None


def is_gpu(kernel: str) -> bool:
    """True for the id of a GPU kernel; ``i2s_cpu_*`` never is one."""
    return not kernel.startswith("i2s_cpu_") and any(fnmatchcase(kernel, pattern) for pattern in GPU_PATTERNS)


def is_fallback(kernel: str) -> bool:
    """True for the id of a kernel that dequantizes or computes in float32 what could have stayed quantized."""
    return kernel.startswith(FALLBACK_PREFIXES) or kernel.endswith("_dequant") or kernel == "matmul_f32"


def is_cpu_quantized(kernel: str) -> bool:
    """True for the id of a CPU kernel that multiplies quantized weights."""
    entry = find(kernel)
    if entry is not None and entry.status == "current":
        return entry.kind == "quantized"
    words = re.split(r"_", kernel)
    is_prefixed = kernel.startswith(QUANTIZED_PREFIXES) and not any("dequant" in word for word in words)
    return is_prefixed and not is_gpu(kernel) and not is_fallback(kernel)


def is_quantized(kernel: str) -> bool:
    """True for the id of any kernel that multiplies quantized weights, a GPU's included."""
    if is_fallback(kernel) or "dequant" in kernel:
        return False
    return is_cpu_quantized(kernel) or kernel.startswith(("gemm_i2s_", "wmma_i2s_", "tl1_gpu_", "tl2_gpu_", "i2s_gpu_"))
