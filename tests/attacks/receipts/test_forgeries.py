"""Forged receipts, one lie each, told as carefully as a forger can: refused for that lie by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

import receipt_forgery as forgery
from receipt_forgery import Edit, Receipt


def put(*path: str | int, value: Any) -> Edit:
    """Set one field."""

    def edit(receipt: Receipt) -> None:
        place: Any = receipt
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value

    return edit


def slower(receipt: Receipt) -> None:
    forgery.scale_times(receipt, 1 / 60)


def hidden_end(receipt: Receipt) -> None:
    run = receipt["evidence"]["run"]
    run["token_ids"][9] = run["end_ids"][0]
    forgery.retell_ids(receipt)


def even_times(receipt: Receipt) -> None:
    run = receipt["evidence"]["run"]
    first, last, n = run["token_ns"][0], run["token_ns"][-1], len(run["token_ns"])
    run["token_ns"] = [first + (last - first) * i // (n - 1) for i in range(n)]
    for p, t in zip(run["passes"], run["token_ns"], strict=True):
        p["start_ns"], p["ns"] = t - 2000 - min(p["ns"], (last - first) // (n - 1) - 4000), 1000
    forgery.retell_times(receipt)


def one_id(receipt: Receipt) -> None:
    receipt["evidence"]["run"]["token_ids"] = receipt["evidence"]["run"]["token_ids"][:1]
    forgery.retell_ids(receipt)


def stages_over_wall(receipt: Receipt) -> None:
    for stage in receipt["evidence"]["stages"]:
        stage["ns"] *= 3


def other_isa(receipt: Receipt) -> None:
    forgery.rename_kernels(receipt, lambda k: k.replace("avx512vnni", "neon") if k.startswith("i2s_gemm") else k)


def tl1_for_i2s(receipt: Receipt) -> None:
    for row in receipt["evidence"]["plan"]["residents"]:
        if row["layout"] == "i2s":
            row["layout"] = "tl1"


def slow_and_asleep(receipt: Receipt) -> None:
    forgery.scale_times(receipt, 100)
    receipt["evidence"]["run"].update(
        user_ns=int(receipt["evidence"]["run"]["wall_ns"] * 0.03), system_ns=0, major_faults=0, involuntary_switches=0
    )


def faster_than_memory(receipt: Receipt) -> None:
    machine = receipt["evidence"]["machine"]
    machine["caches"] = [c for c in machine["caches"] if c["level"] == 1]
    forgery.scale_times(receipt, 1 / 20)


def head_at_nine_tb(receipt: Receipt) -> None:
    for row in receipt["evidence"]["ledger"]["steps"]:
        if row["kernel"].startswith("logits"):
            row["ns"] = row["bytes"] // 9000
    forgery.add_up(receipt)


def cached_answer(receipt: Receipt) -> None:
    """The prompt was forwarded, the answer came from a table."""
    evidence = receipt["evidence"]
    first = evidence["run"]["passes"][0]
    evidence["run"]["passes"] = [first]
    evidence["ledger"].update(n_steps=1, n_tokens=first["n_tokens"])


def layer_skipped(receipt: Receipt) -> None:
    ledger = receipt["evidence"]["ledger"]
    ledger["steps"] = [row for row in ledger["steps"] if not row["step"].startswith("2.")]
    forgery.add_up(receipt)


def attention_skipped(receipt: Receipt) -> None:
    ledger = receipt["evidence"]["ledger"]
    ledger["steps"] = [row for row in ledger["steps"] if row["step"] != "1.attention"]
    forgery.add_up(receipt)


def mostly_floats(receipt: Receipt) -> None:
    """One quantized call, the rest of the body in float32: residents to match, as a program of that kind has them."""
    evidence = receipt["evidence"]
    kept = "0.attn_output"
    for row in evidence["ledger"]["steps"]:
        if row["kernel"].startswith("i2s_") and row["step"] != kept:
            row["kernel"] = "fp32_" + row["kernel"].removeprefix("i2s_").replace("avx512vnni", "matmul")
            row["bytes"] *= 16
    for row in evidence["plan"]["residents"]:
        if row["layout"] == "i2s" and "blk.0.attn_output.weight" not in row["tensors"]:
            row.update(layout="f32", nbytes=4 * row["rows"] * row["cols"])
    forgery.add_up(receipt)


def approximate_head(receipt: Receipt) -> None:
    ledger = receipt["evidence"]["ledger"]
    ledger["head_rows"]["full"] //= 8
    for row in ledger["steps"]:
        if row["kernel"].startswith("logits"):
            row["macs"] //= 8
    forgery.add_up(receipt)


def warm_up_counted(receipt: Receipt) -> None:
    """Ten tokens of a warm-up in the count; the executor was asked for them, the run was not."""
    run = receipt["evidence"]["run"]
    run["token_ids"] += run["token_ids"][:10]
    run["token_ns"] += [run["token_ns"][-1] + 900 * i + i * i for i in range(1, 11)]
    receipt.update(tokens_generated=len(run["token_ids"]), tokens_requested=len(run["token_ids"]))
    run["max_tokens"] = len(run["token_ids"])
    forgery.retell_ids(receipt)
    forgery.retell_times(receipt)


def batch_as_stream(receipt: Receipt) -> None:
    """Eight sequences at once, told as one: the executor counted eight times the tokens."""
    receipt["evidence"]["ledger"]["n_tokens"] *= 8
    for row in receipt["evidence"]["ledger"]["steps"]:
        row["macs"] *= 8
    forgery.add_up(receipt)


def other_hashes(receipt: Receipt) -> None:
    receipt["evidence"]["repeats"][1]["logits_sha256"] = "ab" * 32


def flat_benchmark(receipt: Receipt) -> None:
    row = {"operation": "quantize", "sizes": [4096, 16384, 65536], "ns": [81_000, 80_500, 81_900]}
    receipt["evidence"]["microbenchmarks"] = [row]


def cpu_over_cores(receipt: Receipt) -> None:
    run = receipt["evidence"]["run"]
    run["user_ns"] = 8 * run["wall_ns"] + 10**9


FORGERIES: dict[str, tuple[Edit, str]] = {
    "no speed with a computed path": (put("tokens_per_second", value=0.0), "speed_value"),
    "negative speed": (put("tokens_per_second", value=-1.0), "speed_value"),
    "speed as text": (put("tokens_per_second", value="15.3"), "speed_value"),
    "a blank kernel": (put("kernels", value=[""]), "kernels"),
    "a mistyped kernel": (put("kernels", 3, value="i2s_gemw"), "known_kernels"),
    "a mock kernel": (put("kernels", 0, value="mock_gemv"), "mock_kernels"),
    "a mock path": (put("compute_path", value="mock"), "compute_path"),
    "failed tests": (put("test_results", value={"failed": 2}), "test_results"),
    "a speed a fifth higher": (lambda r: r.update(tokens_per_second=r["tokens_per_second"] * 1.2), "decode_rate"),
    "µs written as ms": (lambda r: r.update(prefill_ms=r["prefill_ms"] * 1000), "units"),
    "a speed per ms": (lambda r: r.update(tokens_per_second=r["tokens_per_second"] / 1000), "units"),
    "stages over the wall clock": (stages_over_wall, "stages"),
    "48 tokens and one id": (one_id, "token_count"),
    "a hidden early end": (hidden_end, "finish"),
    "a constant interval": (even_times, "token_intervals"),
    "a timestamp of the future": (put("timestamp", value="2107-01-01T00:00:00Z"), "not_future"),
    "monotonic clock against UTC": (put("evidence", "run", "ended", value="2099-01-01T00:00:00Z"), "utc_clock"),
    "kernels of another processor": (other_isa, "kernel_isa"),
    "TL1 kept for an I2_S file": (tl1_for_i2s, "layout_map"),
    "a GPU that computed on the CPU": (put("backend", value="CUDA"), "gpu_kernels"),
    "deterministic with two outcomes": (other_hashes, "repeats"),
    "another model's hash": (put("model", "sha256", value="cd" * 32), "model_hash"),
    "a computation that no core can do": (slower, "compute_time"),
    "faster than memory": (faster_than_memory, "memory_time"),
    "a head at 9 TB/s": (head_at_nine_tb, "kernel_bandwidth"),
    "CPU time of 3 %": (slow_and_asleep, "cpu_time_floor"),
    "instruction sets in an order of its own": (lambda r: r["evidence"]["machine"]["isas"].reverse(), "machine"),
    "a build without plain code": (lambda r: r["evidence"]["machine"]["isas"].pop(), "machine"),
    "CPU time over wall and threads": (cpu_over_cores, "cpu_time_ceiling"),
    "less memory than weights": (put("evidence", "run", "peak_rss_bytes", value=1_000_000), "resident_memory"),
    "a flat micro-benchmark": (flat_benchmark, "throughput_growth"),
    "a cached answer": (cached_answer, "positions"),
    "a list of kernels without a ledger": (put("evidence", "ledger", "steps", value=[]), "schema"),
    "a kernel that was not called": (lambda r: r["kernels"].append("silu_mul_avx512vnni"), "kernel_list"),
    "one layer skipped": (layer_skipped, "coverage"),
    "no attention in one layer": (attention_skipped, "coverage"),
    "one quantized call, the rest in floats": (mostly_floats, "quantized_fraction"),
    "an approximate head, undeclared": (approximate_head, "head_macs"),
    "warm-up counted as output": (warm_up_counted, "positions"),
    "a batch of eight as one stream": (batch_as_stream, "positions"),
    "no threads to have run": (put("evidence", "run", "threads", value=0), "schema"),
    "a bandwidth that no memory has": (
        lambda r: r["evidence"]["bandwidth"].update(samples_gb_per_s=[9000.0] * 3, median_gb_per_s=9000.0),
        "bandwidth_ceiling",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_refused_for_its_lie(name: str) -> None:
    edit, expected = FORGERIES[name]
    assert expected in forgery.failed(forgery.edited(edit))


def test_the_receipt_behind_the_forgeries_stands() -> None:
    verdict = forgery.verdict(forgery.positive())
    assert verdict.failed == ()
    assert {c.name: c.level for c in verdict.claims} == {
        "output": "E1", "model": "E3", "kernels": "E3", "speed": "E3", "determinism": "E1", "provenance": "E1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"compute_path": "real"', '"compute_path": "mock", "compute_path": "real"'),
        ('"tokens_per_second": 15.3', '"tokens_per_second": NaN'),
        ('"tokens_per_second": 15.3', '"tokens_per_second": 1e400'),
        ('"tokens_generated": 128', '"tokens_generated": 9007199254740993'),
    ],
)
def test_text_that_two_readers_read_differently(old: str, new: str) -> None:
    text = json.dumps(forgery.bare())
    assert old in text
    assert forgery.failed(text.replace(old, new)) == {"strict_json"}


BARE: dict[str, tuple[Edit, str]] = {
    "AVX2 and NEON at once": (put("kernels", value=["i2s_matmul_avx2", "tl1_lookup_neon"]), "kernel_isa"),
    "NEON on x86": (put("kernels", value=["tl1_lookup_neon"]), "kernel_isa"),
    "TL1 for an I2_S file": (
        lambda r: r.update(kernels=["tl1_forward"], model={"path": "m.gguf", "quantization": "I2_S"}),
        "layout_map",
    ),
    "cuda with i2s_cpu": (lambda r: r.update(backend="cuda", kernels=["i2s_cpu_gemv"]), "gpu_kernels"),
    "floats only": (put("kernels", value=["fp32_matmul", "attention_real"]), "cpu_kernels"),
    "a dequantizer in quantized dress": (put("kernels", value=["i2s_dequant_gemv"]), "cpu_kernels"),
    "more tokens than asked for": (put("tokens_generated", value=129), "token_count"),
    "no kernels": (put("kernels", value=[]), "kernels"),
    "a kernel id of 129 characters": (put("kernels", value=["i2s_gemv" + "x" * 121]), "kernels"),
    "ten thousand and one kernels": (put("kernels", value=["i2s_gemv"] * 10_001), "kernels"),
    "no version": (lambda r: r["environment"].pop("BITNET_VERSION"), "environment"),
    "no system": (lambda r: r["environment"].pop("OS"), "environment"),
    "no back end": (lambda r: r.pop("backend"), "backend"),
    "a template as timestamp": (put("timestamp", value="$(date -Iseconds)"), "timestamp"),
    "an impossible day": (put("timestamp", value="2025-02-30T00:00:00Z"), "timestamp"),
    "a placeholder": (lambda r: r["environment"].update(GPU="TBD"), "placeholders"),
    "a hash of nothing": (lambda r: r["model"].update(sha256="0" * 64), "placeholders"),
    "another schema": (put("schema_version", value="2.0.0"), "schema_version"),
    "a speed of one token": (lambda r: r.update(tokens_generated=1, tokens_requested=1), "speed_value"),
}


@pytest.mark.parametrize("name", BARE)
def test_a_forged_bare_receipt_is_refused_for_its_lie(name: str) -> None:
    edit, expected = BARE[name]
    assert expected in forgery.failed(forgery.edited(edit, forgery.bare()))


def test_a_bare_receipt_proves_little() -> None:
    verdict = forgery.verdict(forgery.bare(), required={"kernels": "E3"})
    assert (verdict.exit_code, verdict.failed) == (8, ())
    assert all(claim.level in ("E0", "E1") for claim in verdict.claims)


def test_gpu_kernels_can_be_demanded() -> None:
    assert "gpu_kernels" in forgery.failed(forgery.bare(), gpu_required=True)
    gpu = forgery.edited(
        lambda r: r.update(backend="cuda", kernels=["gemm_i2s_fp16", "attention_cuda"]), forgery.bare()
    )
    assert forgery.failed(gpu, gpu_required=True) == set()
