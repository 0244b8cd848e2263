"""The file of a run: everything raw, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.report import BANDWIDTH, BUSY, CONTROL, F32_PEAK, NEAR, NOT_ENGINES, PEAK, Load, Phase
from benchmarks.session import Session
from tritium.backends import cpu
from tritium.bench.machine import read_machine
from tritium.bench.stats import Rounds
from tritium.errors import FormatError
from tritium.receipts import strict_json
from tritium.source import read_source

KIND = "tritium benchmarks"
VERSION = 1
_LIMITS = {
    "read_bandwidth_gb_per_s": BANDWIDTH,
    "int8_peak_gmac_per_s": PEAK,
    "f32_peak_gmac_per_s": F32_PEAK,
    "near_product_gmac_per_s": NEAR,
    "others_cpu_percent": BUSY,
    "control_tokens_per_s": CONTROL,
}


def document(session: Session, seconds: float) -> dict[str, Any]:
    """Everything raw, for a file: where and from which source it was measured, phases, rows, receipts by their hash."""
    machine = asdict(read_machine())
    del machine["flags"]
    source = read_source()
    return {
        "kind": KIND,
        "version": VERSION,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": None if source is None else source.commit,
        "dirty": None if source is None else source.is_dirty,
        "machine": machine,
        "build": cpu.build_info(),
        "isas": cpu.isas(),
        "threads": session.n_threads,
        "seconds": seconds,
        "phases": [_phase(phase) for phase in session.phases],
        "rows": session.rows,
        "receipts": session.receipts,
        "engines": session.engines,
        "ops": session.ops,
        "logits_sha256": session.hashes,
        "not_measured": session.missing,
        "failures": session.failures,
    }


def _phase(phase: Phase) -> dict[str, Any]:
    samples = phase.rounds.samples
    return {
        "name": phase.name,
        "kind": phase.kind,
        "threads": phase.n_threads,
        "isa": phase.isa,
        "rounds": phase.rounds.n_rounds,
        "is_cut": phase.rounds.is_cut,
        "set_aside": phase.rounds.n_set_aside,
        "tokens_per_s": {name: speeds for name, speeds in samples.items() if name not in NOT_ENGINES},
        **{key: samples.get(name) for key, name in _LIMITS.items()},
        "loads": {name: asdict(load) for name, load in phase.loads.items()},
        "heads": dict(phase.heads),
        "peers": sorted(phase.peers),
        "receipts": dict(phase.receipts),
    }


def read(path: Path) -> dict[str, Any]:
    """A results file. Errors: OSError; FormatError for what is none."""
    data = strict_json.loads(path.read_bytes())
    if not isinstance(data, dict) or (data.get("kind"), data.get("version")) != (KIND, VERSION):
        raise FormatError(
            "not results of the benchmarks", where=str(path), expected=f"kind {KIND!r}, version {VERSION}"
        )
    return data


def phases(data: Mapping[str, Any]) -> list[Phase]:
    """The phases of a results file."""
    return [
        Phase(
            name=one["name"],
            kind=one["kind"],
            n_threads=one["threads"],
            rounds=Rounds(
                {
                    **{name: one[key] for key, name in _LIMITS.items() if one.get(key) is not None},
                    **one["tokens_per_s"],
                },
                one["rounds"],
                one["is_cut"],
                one.get("set_aside", 0),
            ),
            loads={name: Load(**load) for name, load in one["loads"].items()},
            heads=one["heads"],
            peers=frozenset(one["peers"]),
            isa=one["isa"],
            receipts=one["receipts"],
        )
        for one in data["phases"]
    ]
