"""Mistakes that were published as results: twelve receipts and reports of an earlier engine, in the form of receipts."""

from __future__ import annotations

import receipt_forgery as forgery
from receipt_forgery import Receipt


def _with(**fields: object) -> Receipt:
    return {**forgery.bare(), **fields}


def _without(*names: str, **fields: object) -> Receipt:
    return {name: value for name, value in _with(**fields).items() if name not in names}


CONSTANT_KERNELS = [
    "embedding_lookup", "prefill_forward", "i2s_gemv", "rope_apply", "attention_real", "decode_forward", "logits_projection",
]  # fmt: skip
STAGES = [
    ("embed", 26.0, 0.0, 1),
    ("forward", 1865.0, 95.6, 1),
    ("logits", 72.0, 3.7, 656_670_720),
    ("sample", 155.0, 0.0, 1),
]
SPEEDS = (0.1, 0.51, 15.0, 15.3, 38.0, 45.7)

PUBLISHED: dict[str, tuple[str, str, list[Receipt]]] = {
    "S1": (
        "a mock run, one token of 128, speed 0.0, path real, verdict PASS",
        "speed_value",
        [_with(tokens_generated=1, tokens_per_second=0.0, kernels=CONSTANT_KERNELS)],
    ),
    "S2": (
        "placeholder kernels where inference failed",
        "speed_value",
        [_with(tokens_generated=0, tokens_per_second=0.0, kernels=CONSTANT_KERNELS)],
    ),
    "S3": (
        "a literal receipt that CI wrote where the model was missing",
        "timestamp",
        [
            _without(
                "model", "tokens_requested", "tokens_generated", timestamp="$(date -Iseconds)", tokens_per_second=8.0,
                kernels=["i2s_gemv", "i2s_matmul_scalar"], environment={"BITNET_DETERMINISTIC": "1", "RAYON_NUM_THREADS": "1"},
            )
        ],
    ),
    "S4": (
        "the example that lists AVX2, NEON, TL1 and TL2 kernels at once",
        "kernel_isa",
        [_with(kernels=["i2s_gemv", "i2s_matmul_avx2", "tl1_lookup_neon", "tl2_forward"])],
    ),
    "S5": (
        "the same example without the environment that its schema demands",
        "environment",
        [_with(kernels=["i2s_gemv"], environment={"BITNET_DETERMINISTIC": "1", "BITNET_SEED": "42"})],
    ),
    "S6": (
        "stages of 26 + 1865 + 72 + 155 µs beside 0.5126 tok/s",
        "published_stages",
        [
            _without(
                "tokens_per_second", kernels=["i2s_gemv"],
                performance_baseline={
                    "tokens_per_second": 0.5126,
                    "stages": [{"name": name, "us": us, "percent": percent} for name, us, percent, _ in STAGES],
                },
            )
        ],
    ),
    "S7": (
        "the same read as µs: the head alone needs 9.1 TB/s",
        "published_bandwidth",
        [
            _without(
                "tokens_per_second", kernels=["i2s_gemv"],
                performance_baseline={
                    "tokens_per_second": 472.1,
                    "stages": [{"name": name, "us": us, "nbytes": nbytes} for name, us, _, nbytes in STAGES],
                },
            )
        ],
    ),
    "S8": (
        "480 MB resident for weights of 497 MiB",
        "published_memory",
        [_with(performance_baseline={"rss_bytes": 480_000_000, "weight_bytes": 497 << 20})],
    ),
    "S9": ("one model at six speeds", "speed_spread", [_with(tokens_per_second=speed) for speed in SPEEDS]),
    "S10": (
        "0 % regression between 0.0 and 0.0",
        "published_delta",
        [
            _without(
                "tokens_per_second",
                performance_baseline={"baseline_tokens_per_second": 0.0, "delta_percent": 0.0, "tokens_per_second": 0.0},
            )
        ],
    ),
    "S11": (
        "a quantizer whose time is flat from 4096 to 65 536 elements, reported as rising throughput",
        "throughput_growth",
        [
            _with(
                performance_baseline={
                    "microbenchmarks": [
                        {"operation": "i2s_quantize", "sizes": [4096, 16384, 65536], "ns": [812_000, 798_000, 821_000]}
                    ]
                }
            )
        ],
    ),
    "S12": (
        "an envelope of 10 to 20 ±15 %, which accepts −57 %",
        "published_envelope",
        [_with(performance_baseline={"envelope": {"low": 10.0, "high": 20.0, "tolerance_percent": 15.0}})],
    ),
}  # fmt: skip
