"""What ran, and where: hashes of the model's parts, of the native library and of the source, facts of the machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tritium
from tritium.source import read_source

if TYPE_CHECKING:
    from tritium.formats.gguf import GGUFFile


def tokenizer_sha256(file: GGUFFile) -> str:
    """SHA-256 of the tokenizer's metadata: JSON of the keys ``tokenizer.*`` in order, without spaces, ASCII."""
    parts = {name: value for name, value in file.metadata.items() if name.startswith("tokenizer.")}
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _plain(value: Any) -> Any:
    """Arrays and scalars of a header as JSON takes them."""
    return value.tolist() if hasattr(value, "tolist") else list(value)


def machine_facts(machine: Mapping[str, Any], backend: str) -> dict[str, Any]:
    from tritium.gates import read_policy

    names = (
        "os",
        "kernel",
        "architecture",
        "cpu",
        "virtual",
        "n_cpus",
        "n_cores",
        "cpu_quota",
        "caches",
        "memory_bytes",
    )
    # Where the system tells no features, those stand here that the core's own probes found.
    needs, isas = {name: isa["flags"] for name, isa in read_policy().isas.items()}, _isas()
    known = {flag for flags in needs.values() for flag in flags}
    probed = {flag for isa in isas if isa["status"] == "ok" for flag in needs[isa["name"]]}
    return {
        **{name: machine[name] for name in names},
        "caches": [dict(cache) for cache in machine["caches"]],
        "cpu_flags": sorted(known.intersection(machine["flags"]) or probed),
        "isas": isas,
    }


def _isas() -> list[dict[str, str]]:
    from tritium.backends.cpu import isa_status

    return [{"name": name, "status": status} for name, status in isa_status()]


def build_facts() -> dict[str, Any]:
    """The native library and the source that it runs from; outside a checkout the source is not told."""
    from tritium.backends.cpu import build_info, library_path

    compiler, flags, architecture = build_info()
    build = {
        "version": tritium.__version__,
        "compiler": compiler,
        "flags": flags,
        "architecture": architecture,
        "library_sha256": hashlib.sha256(library_path().read_bytes()).hexdigest(),
    }
    source = read_source()
    return build if source is None else {**build, "commit": source.commit, "dirty": source.is_dirty}
