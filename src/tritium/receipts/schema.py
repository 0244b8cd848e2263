"""What a receipt looks like: one definition, as JSON Schema, that the writer, the reader and the published file share.

The top level is schema 1.0.0 as other tools know it, and open: unknown fields are ignored there. What Tritium counted stands in
the one object ``evidence``, which has its own version and is closed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tritium.errors import FormatError
from tritium.receipts.files import write_text
from tritium.receipts.strict_json import text_of

SCHEMA_VERSION = "1.0.0"
EVIDENCE_VERSION = "1.3"
READ_EVIDENCE = ("1.1", "1.2", "1.3")
READ_VERSIONS = ("1.0.0", "1.0")
DEFAULT_PATH = "ci/inference.json"
MAX_KERNEL_ID = 128
MAX_KERNELS = 10_000
MAX_SEQUENCES = 4096

Schema = dict[str, Any]

RFC3339 = r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})$"
_MAX = (1 << 53) - 1


def _count(least: int = 0, most: int = _MAX) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


def _number(least: float | None = None, most: float | None = None) -> Schema:
    bounds = {"minimum": least, "maximum": most}
    return {"type": "number", **{name: bound for name, bound in bounds.items() if bound is not None}}


def _text(pattern: str | None = None, longest: int = 4096) -> Schema:
    return {"type": "string", "minLength": 1, "maxLength": longest, **({"pattern": pattern} if pattern else {})}


def _list(items: Schema, least: int = 0, most: int = 1_000_000) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _object(fields: Mapping[str, Schema], optional: tuple[str, ...] = (), *, is_open: bool = False) -> Schema:
    return {
        "type": "object",
        "properties": dict(fields),
        "required": [name for name in fields if name not in optional],
        "additionalProperties": is_open,
    }


def _maybe(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


_SHA256 = _text(r"^[0-9a-f]{64}$")
_TIME = {**_text(RFC3339, 64), "format": "date-time"}
_BOOLEAN: Schema = {"type": "boolean"}

_PASS = _object(
    {
        "start_ns": _count(),
        "ns": _count(1),
        "position": _count(),
        "n_tokens": _count(1),
        "n_outputs": _count(),
        "parts": _list(_list(_count(), 3, 3), 1, MAX_SEQUENCES),
    },
    optional=("parts",),
)
_SEQUENCE = {
    "n_prompt": _count(1),
    "n_cached": _count(),
    "max_tokens": _count(1),
    "prompt_ids": _list(_count(0, 1 << 24), 1),
    "prompt_sha256": _SHA256,
    "token_ids": _list(_count(0, 1 << 24), 1),
    "output_sha256": _SHA256,
    "logits_sha256": _maybe(_SHA256),
    "finish_reason": {"type": "string", "enum": ["stop", "length"]},
    "finish_detail": _text(),
    "token_ns": _list(_count(1), 1),
}
_RUN = _object(
    {
        "threads": _count(1, 1024),
        "started": _TIME,
        "ended": _TIME,
        "wall_ns": _count(1),
        "user_ns": _count(),
        "system_ns": _count(),
        "peak_rss_bytes": _count(1),
        "major_faults": _count(),
        "involuntary_switches": _count(),
        **_SEQUENCE,
        "end_ids": _list(_count(0, 1 << 24)),
        "ignore_eos": _BOOLEAN,
        "passes": _list(_PASS, 1),
        "anonymous_bytes": _maybe(_count()),
        "file_backed_bytes": _maybe(_count()),
    },
    optional=("anonymous_bytes", "file_backed_bytes"),
)
_BATCH = _object({"n_sequences": _count(2, MAX_SEQUENCES), "others": _list(_object(_SEQUENCE), 1, MAX_SEQUENCES - 1)})
_SAMPLING = _object(
    {
        "temperature": _number(0, 1e6),
        "seed": _text(r"^\d{1,20}$"),
        "top_k": _count(),
        "top_p": _number(1e-9, 1),
        "min_p": _number(0, 1),
        "typical_p": _number(1e-9, 1),
        "repetition_penalty": _number(1e-3, 1e3),
        "frequency_penalty": _number(-1e3, 1e3),
        "presence_penalty": _number(-1e3, 1e3),
        "logit_bias": _list(_text(r"^\d+=-?[0-9.e+-]+$", 64)),
        "stop": _list(_text()),
        "stop_ids": _list(_count(0, 1 << 24)),
    }
)
_REPEAT = _object(
    {
        "output_sha256": _SHA256,
        "logits_sha256": _maybe(_SHA256),
        "n_tokens": _count(1),
        "decode_ns": _count(),
        "n_decoded": _count(),
    },
    optional=("n_decoded",),
)
_CONFIG = _object(
    {
        "architecture": _text(longest=64),
        "vocab_size": _count(1, 1 << 24),
        "n_layers": _count(1, 1 << 16),
        "d_model": _count(1, 1 << 24),
        "d_ff": _count(1, 1 << 24),
        "n_heads": _count(1, 1 << 16),
        "n_kv_heads": _count(1, 1 << 16),
        "head_dim": _count(1, 1 << 16),
        "tied_head": _BOOLEAN,
        "act_bits": _count(1, 32),
    }
)
_TENSOR = _object(
    {
        "name": _text(longest=256),
        "shape": _list(_count(1, 1 << 31), 1, 4),
        "layout": _text(r"^[a-z0-9_]+$", 32),
        "nbytes": _count(1),
        "sha256": _SHA256,
    }
)
_MODEL = _object(
    {
        "sha256": _SHA256,
        "nbytes": _count(1),
        "tokenizer_sha256": _SHA256,
        "tensors_sha256": _SHA256,
        "config": _CONFIG,
        "tensors": _list(_TENSOR, 1, 100_000),
    }
)
_RESIDENT = _object(
    {
        "tensors": _list(_text(longest=256), 1),
        "layout": _text(r"^[a-z0-9_]+$", 32),
        "rows": _count(1),
        "cols": _count(1),
        "nbytes": _count(1),
    }
)
_PLAN = _object(
    {
        "graph_hash": _SHA256,
        "hash": _SHA256,
        "profile": _text(longest=64),
        "profile_hash": _SHA256,
        "max_context": _count(1),
        "residents": _list(_RESIDENT, 1),
    }
)
_WORK = {"calls": _count(), "macs": _count(), "macs_skipped": _count(), "bytes": _count(), "ns": _count()}
_STEP = _object({"step": _text(longest=512), "kernel": _text(longest=MAX_KERNEL_ID), **_WORK})
_FAMILY = _object({"family": {"type": "string", "enum": ["body", "attention", "head", "other"]}, **_WORK})
_LEDGER = _object(
    {
        "n_steps": _count(1),
        "n_tokens": _count(1),
        "wall_ns": _count(1),
        "steps": _list(_STEP, 1),
        "families": _list(_FAMILY, 4, 4),
        "macs_skipped_by_reason": _object({"zero_gate": _count(), "zero_code": _count()}),
        "head_rows": _object({"screened": _count(), "rescored": _count(), "full": _count()}),
        "quantized_fraction": _number(0, 1),
    }
)
_STAGE = _object({"name": {"type": "string", "enum": ["embed", "forward", "logits", "sample"]}, "ns": _count(),
                  "percent": _number(0, 100)})  # fmt: skip
_CACHE_KIND: Schema = {"type": "string", "enum": ["Data", "Instruction", "Unified"]}
_ISA_STATUS: Schema = {
    "type": "string",
    "enum": ["ok", "not compiled", "cpu lacks it", "self-test failed", "illegal instruction"],
}
_CACHE = _object(
    {"level": _count(1, 5), "kind": _CACHE_KIND, "size_bytes": _count(1, 1 << 36), "n_cpus": _count(1, 4096)}
)
_MACHINE = _object(
    {
        "os": _text(longest=32),
        "kernel": _text(longest=128),
        "architecture": _text(longest=32),
        "cpu": _maybe(_text(longest=128)),
        "virtual": _BOOLEAN,
        "n_cpus": _count(1, 1 << 16),
        "n_cores": _maybe(_count(1, 1 << 16)),
        "cpu_quota": _maybe(_number(0.001, 1 << 16)),
        "caches": _list(_CACHE),
        "memory_bytes": _maybe(_count(1)),
        "cpu_flags": _list(_text(longest=32)),
        "isas": _list(_object({"name": _text(longest=32), "status": _ISA_STATUS})),
    }
)
_BUILD = _object(
    {
        "version": _text(longest=64),
        "compiler": _text(longest=128),
        "flags": _text(longest=512),
        "architecture": _text(longest=32),
        "library_sha256": _SHA256,
        "commit": _text(r"^[0-9a-f]{40}([0-9a-f]{24})?$"),
        "dirty": _BOOLEAN,
    },
    optional=("commit", "dirty"),
)
_TRACE = _object(
    {
        "format": {"type": "string", "enum": ["tritium-trace-1"]},
        "run": _text(r"^[0-9a-f]{32}$"),
        "nonce": _maybe(_text(longest=128)),
        "first": _count(),
        "n_leaves": _count(1),
        "root": _SHA256,
    }
)
_BANDWIDTH = _object(
    {
        "n_threads": _count(1, 1024),
        "nbytes": _count(1),
        "samples_gb_per_s": _list(_number(1e-3, 1e6), 1, 100),
        "median_gb_per_s": _number(1e-3, 1e6),
    }
)
_SIZES = _object(
    {"operation": _text(longest=128), "sizes": _list(_count(1), 1), "ns": _list(_count(1), 1)},
)
EVIDENCE: Schema = _object(
    {
        "version": {"type": "string", "enum": list(READ_EVIDENCE)},
        "run": _RUN,
        "batch": _BATCH,
        "sampling": _SAMPLING,
        "repeats": _list(_REPEAT, 1, 1000),
        "stages": _list(_STAGE, 4, 4),
        "model": _MODEL,
        "plan": _PLAN,
        "trace": _maybe(_TRACE),
        "ledger": _LEDGER,
        "machine": _MACHINE,
        "build": _BUILD,
        "bandwidth": _maybe(_BANDWIDTH),
        "microbenchmarks": _list(_SIZES),
    },
    optional=("batch", "microbenchmarks"),
)
_BASELINE_STAGE = _object({"name": _text(), "us": _number(0), "percent": _number(0, 100), "nbytes": _count(1)},
                          optional=("percent", "nbytes"))  # fmt: skip
_ENVELOPE = _object({"low": _number(0), "high": _number(0), "tolerance_percent": _number(0, 100)}, is_open=True)
BASELINE: Schema = _object(
    {
        "tokens_per_second": _maybe(_number()),
        "stages": _list(_BASELINE_STAGE),
        "rss_bytes": _count(1),
        "weight_bytes": _count(1),
        "baseline_tokens_per_second": _maybe(_number()),
        "delta_percent": _maybe(_number()),
        "envelope": _ENVELOPE,
        "microbenchmarks": _list(_SIZES),
    },
    optional=("tokens_per_second", "stages", "rss_bytes", "weight_bytes", "baseline_tokens_per_second", "delta_percent",
              "envelope", "microbenchmarks"),
    is_open=True,
)  # fmt: skip
RECEIPT: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "inference receipt, schema 1.0.0, with evidence",
    **_object(
        {
            "schema_version": {"type": "string", "enum": list(READ_VERSIONS)},
            "timestamp": _TIME,
            "compute_path": {"type": "string", "enum": ["real", "mock"]},
            "backend": {"type": "string", "minLength": 1},
            "deterministic": _BOOLEAN,
            "tokens_requested": _count(),
            "tokens_generated": _count(),
            "tokens_per_second": _maybe(_number()),
            "kernels": _list(_text(longest=MAX_KERNEL_ID), 1, MAX_KERNELS),
            "environment": {"type": "object", "additionalProperties": {"type": "string"}},
            "model": _object({"path": _text(), "sha256": _SHA256}, optional=("path", "sha256"), is_open=True),
            "prefill_ms": _maybe(_number(0)),
            "test_results": _object({"failed": _count(0)}, is_open=True),
            "performance_baseline": BASELINE,
            "parity": {"type": ["object", "null"]},
            "corrections": {"type": "array"},
            "evidence": EVIDENCE,
        },
        optional=(
            "deterministic", "tokens_requested", "tokens_generated", "tokens_per_second", "model", "prefill_ms", "test_results",
            "performance_baseline", "parity", "corrections", "evidence",
        ),
        is_open=True,
    ),
}  # fmt: skip

WITH_EVIDENCE = (
    "deterministic", "tokens_requested", "tokens_generated", "tokens_per_second", "model", "prefill_ms",
)  # fmt: skip
"""Top-level fields that a receipt with evidence must have too."""

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


def parse_time(text: str) -> datetime:
    """A moment of RFC 3339. Errors: ValueError for what is none."""
    if not re.search(RFC3339, text):
        raise ValueError(f"expected RFC 3339, got {text!r}")
    try:
        return datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text)).astimezone(UTC)
    except OverflowError:
        raise ValueError(f"beyond the calendar: {text!r}") from None


def _is_time(text: str) -> bool:
    try:
        parse_time(text)
    except ValueError:
        return False
    return True


def violations(value: Any, schema: Schema = RECEIPT, where: str = "$") -> Iterator[str]:
    """What of a value does not follow the schema, a line each: place, expected, got."""
    kinds = schema.get("type", list(_TYPES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not any(isinstance(value, _TYPES[k]) and (k == "boolean" or not isinstance(value, bool)) for k in kinds):
        yield f"{where}: expected {' or '.join(kinds)}, got {_brief(value)}"
    elif value is None:
        return
    elif isinstance(value, dict):
        yield from _object_violations(value, schema, where)
    elif isinstance(value, list):
        yield from _length(len(value), schema, "minItems", "maxItems", where, "items")
        for i, item in enumerate(value):
            yield from violations(item, schema.get("items", {}), f"{where}[{i}]")
    elif isinstance(value, str):
        yield from _length(len(value), schema, "minLength", "maxLength", where, "characters")
        if value not in schema.get("enum", [value]):
            yield f"{where}: expected {' or '.join(schema['enum'])}, got {_brief(value)}"
        if schema.get("format") == "date-time" and not _is_time(value):
            yield f"{where}: expected a moment of RFC 3339, got {_brief(value)}"
        elif not re.search(schema.get("pattern", ""), value):
            yield f"{where}: expected {schema['pattern']}, got {_brief(value)}"
    elif not isinstance(value, bool):
        if value < schema.get("minimum", value):
            yield f"{where}: expected at least {schema['minimum']}, got {value}"
        if value > schema.get("maximum", value):
            yield f"{where}: expected at most {schema['maximum']}, got {value}"


def _object_violations(value: dict[str, Any], schema: Schema, where: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{where}.{name}: expected, but missing"
    for name, part in value.items():
        if name in properties:
            yield from violations(part, properties[name], f"{where}.{name}")
        elif others is False:
            yield f"{where}.{name}: unknown field"
        elif isinstance(others, dict):
            yield from violations(part, others, f"{where}.{name}")


def _length(n: int, schema: Schema, least: str, most: str, where: str, unit: str) -> Iterator[str]:
    if not schema.get(least, 0) <= n <= schema.get(most, n):
        yield f"{where}: expected {schema.get(least, 0)} to {schema.get(most, 'any number of')} {unit}, got {n}"


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def write(receipt: Mapping[str, Any], path: Path) -> None:
    """Write a receipt so that the file is there whole or not at all; its folder is made.

    Errors: FormatError if the receipt does not follow the schema; OSError.
    """
    wrong = next(violations(dict(receipt)), None)
    if wrong is not None:
        raise FormatError("receipt", where=wrong)
    write_text(path, text_of(receipt) + "\n")
