"""Receipts that look strange and are true: they must not be refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

import receipt_forgery as forgery
from receipt_forgery import Edit, Receipt


def on_arm(receipt: Receipt) -> None:
    evidence = receipt["evidence"]
    forgery.rename_kernels(receipt, lambda k: k.replace("avx512vnni", "neondot"))
    evidence["machine"].update(architecture="aarch64", cpu=None, cpu_flags=["asimd", "asimddp"])
    for row in evidence["machine"]["isas"]:
        row["status"] = "ok" if row["name"] in ("neondot", "neon", "scalar") else "not compiled"
    evidence["build"]["architecture"] = "aarch64"
    receipt["environment"]["OS"] = "linux-aarch64"


def without_avx512(receipt: Receipt) -> None:
    forgery.rename_kernels(receipt, lambda k: k.replace("avx512vnni", "avxvnni"))
    machine = receipt["evidence"]["machine"]
    names = ("avx512vnni", "avxvnni", "avx2", "neoni8mm", "neondot", "neon", "scalar")
    status = {"avx512vnni": "cpu lacks it"} | dict.fromkeys(("avxvnni", "avx2", "scalar"), "ok")
    machine["isas"] = [{"name": name, "status": status.get(name, "not compiled")} for name in names]
    machine.update(cpu=None, cpu_flags=["avx2", "avx_vnni", "f16c"])


def throttled(receipt: Receipt) -> None:
    forgery.scale_times(receipt, 100)
    run = receipt["evidence"]["run"]
    receipt["evidence"]["machine"]["cpu_quota"] = 0.1
    run.update(user_ns=run["wall_ns"] // 11, system_ns=0)


def cold_file(receipt: Receipt) -> None:
    forgery.scale_times(receipt, 100)
    run = receipt["evidence"]["run"]
    run.update(user_ns=run["wall_ns"] // 20, system_ns=run["wall_ns"] // 100, major_faults=400)


def waiting_on_windows(receipt: Receipt) -> None:
    forgery.scale_times(receipt, 100)
    run = receipt["evidence"]["run"]
    receipt["evidence"]["machine"]["os"] = "windows"
    receipt["environment"]["OS"] = f"windows-{receipt['evidence']['machine']['architecture']}"
    run.update(user_ns=run["wall_ns"] // 20, system_ns=0, major_faults=0, involuntary_switches=0)


def large_cache(receipt: Receipt) -> None:
    for cache in receipt["evidence"]["machine"]["caches"]:
        if cache["level"] == 3:
            cache["size_bytes"] = 1_152 << 20


def slow_bandwidth(receipt: Receipt) -> None:
    receipt["evidence"]["bandwidth"].update(samples_gb_per_s=[9.1, 8.3, 30.5], median_gb_per_s=9.1)


def interrupted_probe(receipt: Receipt) -> None:
    receipt["evidence"]["bandwidth"].update(samples_gb_per_s=[0.9, 9.1, 9.3], median_gb_per_s=9.1)


def probe_interrupted_twice(receipt: Receipt) -> None:
    receipt["evidence"]["bandwidth"].update(samples_gb_per_s=[0.9, 9.1, 1.0], median_gb_per_s=1.0)


def scalar(receipt: Receipt) -> None:
    """Thirty times slower, by kernels that any processor has."""
    forgery.rename_kernels(receipt, lambda k: k.replace("avx512vnni", "scalar"))
    forgery.scale_times(receipt, 30)


def not_repeated(receipt: Receipt) -> None:
    receipt["deterministic"] = False
    del receipt["evidence"]["repeats"][1:]


def not_measured(receipt: Receipt) -> None:
    receipt["evidence"]["bandwidth"] = None


HONEST: dict[str, tuple[Edit, dict[str, str]]] = {
    "as it was written": (lambda r: None, {"speed": "E3", "kernels": "E3"}),
    "the same model on Arm": (on_arm, {"speed": "E3", "kernels": "E3"}),
    "the same model with AVX-VNNI": (without_avx512, {"speed": "E3", "kernels": "E3"}),
    "one layer in floats, declared": (forgery.one_layer_in_floats, {"kernels": "E3", "model": "E3"}),
    "a run on Windows that waited": (waiting_on_windows, {"speed": "E1", "kernels": "E3"}),
    "a throttled control group": (throttled, {"speed": "E1", "kernels": "E3"}),
    "a cold file": (cold_file, {"speed": "E1", "kernels": "E3"}),
    "a processor with a very large cache": (large_cache, {"speed": "E3"}),
    "a processor without a name": (
        lambda r: r["evidence"]["machine"].update(cpu=None, virtual=True, kernel="6.1"),
        {"speed": "E3"},
    ),
    "caches that are not told": (lambda r: r["evidence"]["machine"].update(caches=[]), {"speed": "E1", "kernels": "E3"}),
    "neighbors that slow the probe": (slow_bandwidth, {"speed": "E3"}),
    "a probe that was interrupted once": (interrupted_probe, {"speed": "E3"}),
    "a probe of one fast sample": (probe_interrupted_twice, {"speed": "E1", "kernels": "E3"}),
    "a run thirty times slower": (lambda r: forgery.scale_times(r, 30), {"speed": "E3"}),
    "not repeated": (not_repeated, {"determinism": "E0", "kernels": "E3"}),
    "no bandwidth measured": (not_measured, {"speed": "E0", "kernels": "E3"}),
    "a tree with changes of its own": (
        lambda r: r["evidence"]["build"].update(dirty=True),
        {"speed": "E3", "provenance": "E1"},
    ),
    "an architecture that nobody knows": (
        lambda r: r["evidence"]["model"]["config"].update(architecture="ternary-of-tomorrow"),
        {"kernels": "E3", "model": "E3"},
    ),
    "a scalar build": (scalar, {"speed": "E3", "kernels": "E3"}),
    "fields of others at the top": (lambda r: r.update(x_note="kept", parity=None, corrections=[]), {"speed": "E3"}),
    "a GPU's receipt without evidence": (
        lambda r: (r.pop("evidence"), r.update(backend="cuda", kernels=["gemm_i2s_fp16", "attention_cuda"])),
        {"kernels": "E1"},
    ),
    "a bare receipt": (lambda r: (r.clear(), r.update(forgery.bare())), {"kernels": "E1", "output": "E1"}),
    "a bare receipt, nested speed": (
        lambda r: (r.clear(), r.update(forgery.bare()), r.pop("tokens_per_second"),
                   r.update(performance_baseline={"tokens_per_second": 15.3})),
        {"kernels": "E1"},
    ),
    "a bare receipt of schema 1.0": (
        lambda r: (r.clear(), r.update(forgery.bare(), schema_version="1.0")),
        {"kernels": "E1"},
    ),
    "kernels listed twice": (lambda r: r["kernels"].append(r["kernels"][0]), {"kernels": "E0", "model": "E3"}),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_it_is_accepted_at_its_level(name: str) -> None:
    edit, expected = HONEST[name]
    receipt = forgery.edited(edit)
    verdict = forgery.verdict(receipt)
    assert verdict.failed == ()
    assert verdict.exit_code == 0
    reached = {claim.name: claim.level for claim in verdict.claims}
    assert {name: reached[name] for name in expected} == expected


def test_order_of_keys_and_spelling_of_numbers_do_not_matter() -> None:
    receipt = forgery.positive()

    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: turned(value[name]) for name in reversed(value)}
        return [turned(part) for part in value] if isinstance(value, list) else value

    text = (
        json.dumps(turned(receipt))
        .replace('"temperature": 0.0', '"temperature": 0')
        .replace('"top_p": 1.0', '"top_p": 1e0')
    )
    assert text != json.dumps(turned(receipt))
    one, other = forgery.verdict(text), forgery.verdict(receipt)
    assert one.failed == ()
    assert one.receipt_sha256 == other.receipt_sha256
    assert one.claims == other.claims
