"""What kernel ids mean, and that the judge's tables keep up with the engine's."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from tritium import numerics, profile
from tritium.gates import gates, read_policy
from tritium.kernel_table import kernel_table
from tritium.receipts import registry, schema

ROOT = Path(__file__).resolve().parents[2]


def test_every_row_of_the_kernel_table_is_known() -> None:
    for row in kernel_table():
        entry = registry.find(row.id)
        assert entry is not None
        assert (entry.op, entry.layout, entry.isa, entry.status) == (row.op, row.layout, row.isa, "current")
        assert registry.is_cpu_quantized(row.id) == (row.kind == "quantized")
        assert not registry.is_gpu(row.id)


@pytest.mark.parametrize(
    ("kernel", "gpu", "quantized", "fallback"),
    [
        ("i2s_gemv", False, True, False),
        ("i2s_matmul_avx2", False, True, False),
        ("tl1_lookup_neon", False, True, False),
        ("qk256_scalar_gemv", False, True, False),
        ("i2s_cpu_gemv", False, True, False),
        ("i2s_gpu_gemv", True, True, False),
        ("gemm_i2s_fp16", True, True, False),
        ("wmma_i2s", True, False, False),
        ("attention_cuda", True, False, False),
        ("i2s_dequantize", True, False, False),
        ("dequantize_i2s_helper", False, False, False),
        ("dequant_i2s", False, False, True),
        ("i2s_dequant", False, False, True),
        ("fp32_matmul", False, False, True),
        ("matmul_f32", False, False, True),
        ("quantize_activations_avx2", False, False, False),
        ("attention_real", False, False, False),
    ],
)
def test_classes(kernel: str, gpu: bool, quantized: bool, fallback: bool) -> None:
    assert registry.is_gpu(kernel) == gpu
    assert registry.is_quantized(kernel) == quantized
    assert registry.is_fallback(kernel) == fallback


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("i2s_gemw", "i2s_gemv"), ("atention_real", "attention_real"), ("i2s_gemv_avx3", "i2s_gemv_avx2"), ("zzz", None)],
)
def test_a_typo_is_answered_with_what_was_meant(typed: str, meant: str | None) -> None:
    assert registry.find(typed) is None
    assert registry.suggest(typed) == meant


def test_the_policy_knows_every_instruction_set_and_profile() -> None:
    policy = read_policy()
    listed = re.findall(r"^ISA\((\w+), (\w+),", (ROOT / "csrc" / "isa.list").read_text(encoding="utf-8"), re.MULTILINE)
    assert [(name, isa["architecture"]) for name, isa in policy.isas.items() if name != "any"] == listed
    assert policy.profiles[numerics.PROFILE] == profile.PROFILE_HASH


def test_every_check_belongs_to_a_claim() -> None:
    text = "\n".join(Path(str(module.__file__)).read_text(encoding="utf-8") for module in gates())
    used = set(re.findall(r'(?:check|not_applicable)\(\s*"(\w+)", "E[1-6]"', text))
    tree = tomllib.loads((ROOT / "src" / "tritium" / "gates" / "policy.toml").read_text(encoding="utf-8"))
    claimed = {name for claim in tree["claims"]["order"] for names in tree["claims"][claim].values() for name in names}
    assert used - claimed <= {"published_memory", "published_bandwidth", "speed_spread", "copied_times"}
    assert len(used) > 25


def test_the_exported_schema_is_the_one_in_use() -> None:
    exported = json.loads((ROOT / "docs" / "receipt.schema.json").read_text(encoding="utf-8"))
    assert exported == json.loads(json.dumps(schema.RECEIPT))
    assert list(schema.violations({}, exported)) == list(schema.violations({}))


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (1, "expected object"),
        ({}, "$.schema_version: expected, but missing"),
        ({"schema_version": "3"}, "expected 1.0.0 or 1.0"),
        ({"tokens_generated": True}, "$.tokens_generated: expected integer, got True"),
        ({"tokens_generated": -1}, "at least 0"),
        ({"kernels": [1]}, "$.kernels[0]: expected string"),
        ({"environment": {"OS": 1}}, "$.environment.OS: expected string"),
        ({"timestamp": "2025-02-30T00:00:00Z"}, "a moment of RFC 3339"),
        ({"timestamp": "9999-12-31T23:59:59-12:00"}, "a moment of RFC 3339"),
        ({"evidence": {"x": 1}}, "$.evidence.x: unknown field"),
    ],
)
def test_the_schema_says_where_and_what(value: object, part: str) -> None:
    assert any(part in line for line in schema.violations(value))


def test_a_receipt_that_breaks_the_schema_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(schema.FormatError, match="schema_version"):
        schema.write({}, tmp_path / "receipt.json")
    assert not list(tmp_path.iterdir())
