"""Write the negative examples of docs/tdd/receipts: bare receipts with one fault each; ``--check`` only compares."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "tdd" / "receipts"

SOUND: dict[str, Any] = {
    "schema_version": "1.0.0",
    "timestamp": "2026-01-31T12:00:00Z",
    "compute_path": "real",
    "backend": "cpu",
    "deterministic": False,
    "tokens_requested": 16,
    "tokens_generated": 16,
    "tokens_per_second": 20.0,
    "kernels": ["embedding_lookup_f16_avx2", "i2s_gemv_avx2", "attention_real_avx2", "logits_projection_f16_avx2"],
    "environment": {"BITNET_VERSION": "0.1.0", "OS": "linux-x86_64"},
    "test_results": {"failed": 0},
}
"""What every negative example departs from in one point."""

Edit = Callable[[dict[str, Any]], object]
FAULTS: dict[str, Edit] = {
    "schema_version": lambda r: r.update(schema_version="2.0.0"),
    "compute_path": lambda r: r.update(compute_path="mock"),
    "kernels": lambda r: r["kernels"].append(""),
    "known_kernels": lambda r: r["kernels"].append("i2s_gemw"),
    "mock_kernels": lambda r: r["kernels"].append("mock_gemv"),
    "environment": lambda r: r["environment"].pop("BITNET_VERSION"),
    "timestamp": lambda r: r.update(timestamp="yesterday"),
    "backend": lambda r: r.update(backend="abacus"),
    "gpu_kernels": lambda r: r.update(backend="cuda"),
    "cpu_kernels": lambda r: r["kernels"].remove("i2s_gemv_avx2"),
    "test_results": lambda r: r["test_results"].update(failed=2),
    "speed_value": lambda r: r.update(tokens_per_second=-1.0),
    "kernel_isa": lambda r: r["kernels"].append("rope_apply_neon"),
    "token_count": lambda r: r.update(tokens_generated=17),
}
"""The check that refuses it → its fault."""


def files() -> dict[str, str]:
    """Name → text of every negative example; cpu_negative_example.json is the mock run."""
    out = {}
    for check, edit in FAULTS.items():
        receipt = json.loads(json.dumps(SOUND))
        edit(receipt)
        name = "cpu_negative_example.json" if check == "compute_path" else f"negative_{check}.json"
        out[name] = json.dumps(receipt, indent=2) + "\n"
    return out


def main() -> int:
    """Write the files, or with ``--check`` return 1 if one differs."""
    stale = 0
    for name, text in files().items():
        path = FOLDER / name
        if "--check" in sys.argv[1:]:
            stale |= not path.is_file() or path.read_text(encoding="utf-8") != text
        else:
            path.write_text(text, encoding="utf-8")
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
