"""The gates of old, for any JSON object: schema version, compute path, kernels, environment, timestamp, back end, claims.

Every message says what was found, what was expected and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tritium.gates._check import Check, check, not_applicable
from tritium.receipts import registry
from tritium.receipts.schema import MAX_KERNEL_ID, MAX_KERNELS, READ_VERSIONS, parse_time

BACKENDS = ("cpu", "cuda", "metal", "reference")
_PLACEHOLDER = re.compile(
    r"\$\(|\$\{|`|<[a-z_ ]+>|^(?:todo|tbd|n/a|none|null|unknown|placeholder|xxx+)$", re.IGNORECASE
)
_RERUN = "Write the receipt again with: tritium run … --receipt PATH"


def gate(receipt: Mapping[str, Any], gpu_required: bool) -> Iterator[Check]:
    """All of them; each stands for itself, so that one receipt shows all that is wrong with it."""
    yield _schema_version(receipt)
    yield _compute_path(receipt)
    raw = receipt.get("kernels")
    kernels = [k for k in raw if isinstance(k, str)] if isinstance(raw, list) else []
    yield _kernels(raw)
    mocks = [k for k in kernels if k.lower().startswith("mock")]
    yield check("mock_kernels", "E0", not mocks, ", ".join(mocks[:3]), "no mock* id", f"Nothing was computed. {_RERUN}")
    yield _known_kernels(kernels)
    yield _environment(receipt.get("environment"))
    yield _timestamp(receipt.get("timestamp"))
    yield from _backend(receipt, kernels, gpu_required)
    yield _quantized_claim(receipt, kernels)
    yield _tests(receipt)
    yield _speed(receipt)
    yield _placeholders(receipt)


def _schema_version(receipt: Mapping[str, Any]) -> Check:
    value = receipt.get("schema_version")
    return check("schema_version", "E0", value in READ_VERSIONS, value, " or ".join(READ_VERSIONS), _RERUN)


def _compute_path(receipt: Mapping[str, Any]) -> Check:
    value = receipt.get("compute_path")
    hint = f"A mock run proves nothing. {_RERUN}" if value == "mock" else f"Only a computed run counts. {_RERUN}"
    return check("compute_path", "E0", value == "real", value, "real", hint)


def _kernels(raw: Any) -> Check:
    name, level = "kernels", "E0"
    if not isinstance(raw, list) or not raw:
        return check(
            name, level, False, f"{raw!r:.60}", "a list of kernel ids that is not empty", f"No kernel ran. {_RERUN}"
        )
    if len(raw) > MAX_KERNELS:
        return check(name, level, False, len(raw), f"at most {MAX_KERNELS} ids", "List each kernel once")
    for i, kernel in enumerate(raw):
        if not isinstance(kernel, str):
            return check(name, level, False, f"{kernel!r:.60}", "text", f"kernels[{i}] is no kernel id")
        if not kernel.strip() or kernel != kernel.strip():
            return check(
                name, level, False, repr(kernel), "an id without white space", f"kernels[{i}] is blank. {_RERUN}"
            )
        if len(kernel) > MAX_KERNEL_ID:
            return check(
                name, level, False, len(kernel), f"at most {MAX_KERNEL_ID} characters", f"kernels[{i}] is too long"
            )
    return check(name, level, True, len(raw))


def _known_kernels(kernels: list[str]) -> Check:
    unknown = [k for k in kernels if k.strip() and registry.find(k) is None]
    if not unknown:
        return check("known_kernels", "E0", True)
    close = registry.suggest(unknown[0])
    hint = f"Did you mean {close}?" if close else "No registry has it"
    return check("known_kernels", "E0", False, ", ".join(unknown[:3]), "ids of the registry", hint)


def _environment(value: Any) -> Check:
    names = ("BITNET_VERSION", "OS")
    missing = [
        n for n in names if not isinstance(value, dict) or not isinstance(value.get(n), str) or not value[n].strip()
    ]
    return check("environment", "E0", not missing, f"no {' and no '.join(missing)}" if missing else None,
                 "BITNET_VERSION and OS", _RERUN)  # fmt: skip


def _timestamp(value: Any) -> Check:
    try:
        good = isinstance(value, str) and bool(parse_time(value))
    except ValueError:
        good = False
    return check("timestamp", "E0", good, f"{value!r:.60}", "RFC 3339, as 2026-01-31T12:00:00Z", _RERUN)


def _backend(receipt: Mapping[str, Any], kernels: list[str], gpu_required: bool) -> Iterator[Check]:
    value = receipt.get("backend")
    name = value.lower() if isinstance(value, str) else ""
    yield check("backend", "E0", name in BACKENDS, value, " or ".join(BACKENDS), "A receipt names what computed it")
    if name == "cuda" or gpu_required:
        gpu = [k for k in kernels if registry.is_gpu(k)]
        why = "backend is cuda" if name == "cuda" else "--require-gpu-kernels was given"
        yield check(
            "gpu_kernels", "E0", bool(gpu), ", ".join(kernels[:4]) or "none", f"a GPU kernel ({why})",
            f"None of {' '.join(registry.GPU_PATTERNS)} ran: the GPU was silently replaced by the CPU. Run with a GPU, or "
            "say backend cpu",
        )  # fmt: skip
    else:
        yield not_applicable("gpu_kernels", "E0", "no GPU is claimed")
    if name == "cpu":
        quantized = [k for k in kernels if registry.is_cpu_quantized(k)]
        fallback = [k for k in kernels if registry.is_fallback(k)]
        yield check(
            "cpu_kernels", "E0", bool(quantized), ", ".join(fallback[:4] or kernels[:4]) or "none",
            f"a quantized kernel ({' '.join(p + '*' for p in registry.QUANTIZED_PREFIXES)})",
            "The CPU back end computed without quantized kernels. Use a ternary model file, and BITNET_STRICT_MODE=1 so that a "
            "fallback fails the run",
        )  # fmt: skip
    else:
        yield not_applicable("cpu_kernels", "E0", "backend is not cpu")


def _quantized_claim(receipt: Mapping[str, Any], kernels: list[str]) -> Check:
    fallback = [k for k in kernels if registry.is_fallback(k)]
    claims = any(isinstance(receipt.get(k), str) and receipt[k] for k in ("model_quantization", "quantization"))
    if receipt.get("compute_path") != "real" or not (fallback or claims):
        return not_applicable("quantization_claim", "E0", "no fallback kernel and no claim of quantization")
    good = any(registry.is_quantized(k) for k in kernels)
    hint = "Every linear layer was computed in floats. Run a ternary model file, with BITNET_STRICT_MODE=1"
    return check(
        "quantization_claim", "E0", good, ", ".join(fallback[:4]) or "no quantized kernel", "a quantized kernel", hint
    )


def _tests(receipt: Mapping[str, Any]) -> Check:
    results = receipt.get("test_results")
    if results is None:
        return not_applicable("test_results", "E0", "no tests are reported")
    failed = results.get("failed") if isinstance(results, dict) else results
    good = isinstance(failed, int) and not isinstance(failed, bool) and failed == 0
    return check("test_results", "E0", good, f"{failed!r:.60}", 0, "Repair the failing tests, then measure")


def _speed(receipt: Mapping[str, Any]) -> Check:
    nested = receipt.get("performance_baseline")
    value = receipt.get("tokens_per_second", nested.get("tokens_per_second") if isinstance(nested, dict) else None)
    n = receipt.get("tokens_generated")
    if value is None:
        # Several tokens of a batch may be the first of several sequences.
        evidence = receipt.get("evidence")
        claims = isinstance(n, int) and n > 1 and isinstance(evidence, dict) and "batch" not in evidence
        return (
            check("speed_value", "E0", False, value, "tokens per second of several tokens", _RERUN)
            if claims
            else not_applicable("speed_value", "E0", "no speed is claimed")
        )
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
    good = good and not (isinstance(n, int) and n < 2 and "tokens_generated" in receipt)
    hint = "One token has no decode rate, and a run that computed has one above 0"
    return check("speed_value", "E0", good, f"{value!r:.60}" + (f" of {n} tokens" if n is not None else ""),
                 "above 0, of two tokens or more", hint)  # fmt: skip


def _placeholders(receipt: Mapping[str, Any]) -> Check:
    found = next(_placeholder_texts(receipt, "$"), None)
    return check(
        "placeholders", "E0", found is None, found, "values", "A template was not filled in: nobody measured this"
    )


def _placeholder_texts(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            free = name in ("stop", "finish_detail", "text", "path", "kernels")
            yield from () if free else _placeholder_texts(part, f"{where}.{name}")
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from _placeholder_texts(part, f"{where}[{i}]")
    elif isinstance(value, str) and (
        not value.strip() or _PLACEHOLDER.search(value) or re.fullmatch(r"0{32,}|f{32,}", value, re.IGNORECASE)
    ):
        yield f"{where}: {value!r:.60}"
