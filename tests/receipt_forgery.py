"""Receipts to judge: a real one of the embedded model, and tools to change it the way a forger would."""

from __future__ import annotations

import copy
import hashlib
import json
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tritium.gates import Verdict, judge
from tritium.receipts import jcs

ROOT = Path(__file__).resolve().parents[1]
POSITIVE = ROOT / "docs" / "tdd" / "receipts" / "cpu_positive_example.json"
NOW = datetime(2100, 1, 1, tzinfo=UTC)
"""The judge's clock in tests: after every receipt."""

Receipt = dict[str, Any]
Edit = Callable[[Receipt], object]
OPS_OF_STAGE = {"embed": ("embedding",), "logits": ("logits_projection",)}


def positive() -> Receipt:
    """The receipt that the command line wrote on the embedded model."""
    value: Receipt = json.loads(POSITIVE.read_text(encoding="utf-8"))
    return value


def bare() -> Receipt:
    """The least that schema 1.0.0 asks for: strings that anyone can type."""
    return {
        "schema_version": "1.0.0",
        "timestamp": "2025-10-23T00:39:09Z",
        "compute_path": "real",
        "backend": "cpu",
        "deterministic": True,
        "tokens_requested": 128,
        "tokens_generated": 128,
        "tokens_per_second": 15.3,
        "kernels": [
            "embedding_lookup",
            "prefill_forward",
            "i2s_gemv",
            "rope_apply",
            "attention_real",
            "logits_projection",
        ],
        "environment": {"BITNET_VERSION": "0.1.0", "OS": "linux-x86_64", "RUST_VERSION": "rustc 1.92.0"},
        "model": {"path": "models/model.gguf"},
    }


def verdict(receipt: Receipt | bytes | str, **options: Any) -> Verdict:
    """Judge a receipt that need not be one."""
    data = (
        receipt
        if isinstance(receipt, bytes)
        else receipt.encode()
        if isinstance(receipt, str)
        else json.dumps(receipt).encode()
    )
    return judge(data, **{"now": NOW, **options})


def failed(receipt: Receipt | bytes | str, **options: Any) -> set[str]:
    """Ids of the checks that refuse it."""
    return {check.id for check in verdict(receipt, **options).failed}


def levels(receipt: Receipt | bytes | str) -> dict[str, str | None]:
    """The level of each claim."""
    return {claim.name: claim.level for claim in verdict(receipt).claims}


def edited(edit: Edit, base: Receipt | None = None) -> Receipt:
    """A changed copy."""
    receipt = copy.deepcopy(base if base is not None else positive())
    edit(receipt)
    return receipt


def step_op(kernel: str) -> str:
    """The family of a ledger row in this receipt."""
    for mark, family in (("i2s_", "body"), ("fp32_", "body"), ("attention", "attention"), ("logits", "head")):
        if kernel.startswith(mark):
            return family
    return "other"


def add_up(receipt: Receipt) -> None:
    """Make totals follow from the ledger's rows again, as a careful forger does: families, stages, the executor's time."""
    evidence = receipt["evidence"]
    ledger = evidence["ledger"]
    for family in ledger["families"]:
        rows = [row for row in ledger["steps"] if step_op(row["kernel"]) == family["family"]]
        for name in ("calls", "macs", "macs_skipped", "bytes", "ns"):
            family[name] = sum(row[name] for row in rows)
    stage_ns = {"embed": 0, "forward": 0, "logits": 0}
    for row in ledger["steps"]:
        name = (
            "embed"
            if row["kernel"].startswith("embedding")
            else "logits"
            if row["kernel"].startswith("logits")
            else "forward"
        )
        stage_ns[name] += row["ns"]
    run = evidence["run"]
    ends = [p["start_ns"] + p["ns"] for p in run["passes"] if p["n_outputs"]]
    stage_ns["sample"] = sum(t - end for t, end in zip(run["token_ns"], ends, strict=False))
    for stage in evidence["stages"]:
        stage["ns"] = stage_ns[stage["name"]]
        stage["percent"] = 100 * stage["ns"] / run["token_ns"][-1]
    body = [row for row in ledger["steps"] if step_op(row["kernel"]) == "body"]
    work = sum(row["macs"] + row["macs_skipped"] for row in body)
    quantized = sum(row["macs"] + row["macs_skipped"] for row in body if row["kernel"].startswith("i2s_"))
    ledger["quantized_fraction"] = quantized / work if work else 0
    receipt["kernels"] = list(dict.fromkeys(row["kernel"] for row in ledger["steps"] if row["calls"]))


def retell_times(receipt: Receipt) -> None:
    """Make speeds, repeats and clocks follow from the token times again."""
    evidence = receipt["evidence"]
    run = evidence["run"]
    times = run["token_ns"]
    if len(times) > 1:
        receipt["tokens_per_second"] = (len(times) - 1) / (times[-1] - times[0]) * 1e9
    receipt["prefill_ms"] = times[0] / 1e6
    run["wall_ns"] = times[-1] + 1000
    evidence["repeats"][0].update(decode_ns=times[-1] - times[0], n_tokens=len(times))
    evidence["ledger"]["wall_ns"] = sum(p["ns"] for p in run["passes"])
    start = datetime.fromisoformat(run["started"].replace("Z", "+00:00")).timestamp()
    run["ended"] = datetime.fromtimestamp(start + run["wall_ns"] / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    add_up(receipt)


def scale_times(receipt: Receipt, factor: float) -> None:
    """Tell the same run faster or slower, consistently."""
    run, ledger = receipt["evidence"]["run"], receipt["evidence"]["ledger"]
    run["token_ns"] = [round(t * factor) for t in run["token_ns"]]
    for p in run["passes"]:
        p["start_ns"], p["ns"] = int(p["start_ns"] * factor), max(int(p["ns"] * factor) - 1, 1)
    for row in ledger["steps"]:
        row["ns"] = int(row["ns"] * factor)
    for name in ("user_ns", "system_ns"):
        run[name] = int(run[name] * factor)
    retell_times(receipt)


def retell_ids(receipt: Receipt) -> None:
    """Hash the ids again."""
    run = receipt["evidence"]["run"]
    for ids, name in (("prompt_ids", "prompt_sha256"), ("token_ids", "output_sha256")):
        run[name] = hashlib.sha256(struct.pack(f"<{len(run[ids])}I", *run[ids])).hexdigest()
    for repeat in receipt["evidence"]["repeats"]:
        repeat["output_sha256"] = run["output_sha256"]


def retell_tensors(receipt: Receipt) -> None:
    """Hash the list of tensors again."""
    model = receipt["evidence"]["model"]
    model["tensors_sha256"] = jcs.digest(model["tensors"])


def rename_kernels(receipt: Receipt, rename: Callable[[str], str]) -> None:
    """Give kernels other names, in the ledger and in the list."""
    for row in receipt["evidence"]["ledger"]["steps"]:
        row["kernel"] = rename(row["kernel"])
    receipt["kernels"] = list(dict.fromkeys(map(rename, receipt["kernels"])))


def one_layer_in_floats(receipt: Receipt) -> None:
    """Tell that one projection ran in float32, everywhere that a receipt speaks of it."""
    evidence = receipt["evidence"]
    receipt["model_quantization"] = "hybrid: blk.0.attn_output in f32"
    for row in evidence["plan"]["residents"]:
        if row["tensors"] == ["blk.0.attn_output.weight"]:
            row.update(layout="f32", nbytes=4 * row["rows"] * row["cols"])
    for row in evidence["ledger"]["steps"]:
        if row["step"] == "0.attn_output":
            row["kernel"] = row["kernel"].replace("i2s_", "fp32_").replace("avx512vnni", "matmul")
    add_up(receipt)
