"""What of a receipt can be compared: its key, its figures, and the facts that have to be the same."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tritium.bench.verdict import Decision
from tritium.errors import FormatError
from tritium.gates import Verdict, judge, parse_requirements, read_policy
from tritium.receipts import jcs, registry, strict_json

REQUIRED = "kernels=E3,model=E3,speed=E2"
"""What a receipt has to reach before its speed counts."""


def digits(value: float) -> str:
    """A figure for people: four significant digits, whole numbers from a thousand on."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@dataclass(frozen=True, slots=True)
class Key:
    """Receipts of one key may be compared.

    ``machine``: the CPU's name and how many of them; ``isa``: of the kernels that ran; ``model``: the root of all tensors'
    hashes; ``workload``: prompt, length and sampling.
    """

    os: str
    machine: str
    isa: str
    threads: int
    backend: str
    model: str
    workload: str

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits."""
        return jcs.digest(asdict(self))[:16]

    @property
    def slug(self) -> str:
        """A name for files."""
        return f"{self.backend}-{self.isa}-{self.threads}t-{self.model[:8]}-{self.workload.split()[0]}-{self.id[:8]}"


def key_of(receipt: Mapping[str, Any]) -> Key | None:
    """The key of a receipt that follows the schema; None without evidence, which tells too little to compare."""
    evidence = receipt.get("evidence")
    if evidence is None:
        return None
    run, machine = evidence["run"], evidence["machine"]
    found = [registry.find(kernel) for kernel in receipt["kernels"]]
    isas = sorted({entry.isa for entry in found if entry is not None and entry.isa != "any"})
    quota = "" if machine["cpu_quota"] is None else f", quota {machine['cpu_quota']:g}"
    virtual = ", virtual" if machine["virtual"] else ""
    cached = f" cached{run['n_cached']}" if run["n_cached"] else ""
    others = evidence["batch"]["others"] if "batch" in evidence else []
    beside = jcs.digest([[s["prompt_sha256"], s["max_tokens"], s["n_cached"]] for s in others])[:16]
    batch = f" batch of {len(others) + 1} beside {beside}" if others else ""
    return Key(
        os=f"{machine['os']}-{machine['architecture']}",
        machine=f"{machine['cpu'] or 'unnamed CPU'}, {machine['n_cpus']} CPUs{quota}{virtual}",
        isa="+".join(isas) or "any",
        threads=run["threads"],
        backend=receipt["backend"],
        model=evidence["model"]["tensors_sha256"],
        workload=f"pp{run['n_prompt']}tg{run['max_tokens']} prompt {run['prompt_sha256'][:16]} "
        f"sampling {jcs.digest(evidence['sampling'])[:16]}{cached}{batch}",
    )


def decode_speed(receipt: Mapping[str, Any]) -> float | None:
    """Tokens a second after the first one, of a batch those of all sequences: the median of all runs in the receipt.

    None for a single token.
    """
    counts = [(row.get("n_decoded", row["n_tokens"] - 1), row["decode_ns"]) for row in receipt["evidence"]["repeats"]]
    speeds = [n / ns * 1e9 for n, ns in counts if n > 0 and ns > 0]
    return statistics.median(speeds) if speeds else None


def decode_time(receipt: Mapping[str, Any]) -> float | None:
    """Milliseconds from a token to the next."""
    speed = decode_speed(receipt)
    return None if speed is None else 1e3 / speed


def prefill_time(receipt: Mapping[str, Any]) -> float | None:
    """Milliseconds to the first token of the recorded run."""
    value = receipt["prefill_ms"]
    return None if value is None else float(value)


def cpu_time(receipt: Mapping[str, Any]) -> float | None:
    """Milliseconds of CPU time, all threads together, a forwarded token of the recorded run."""
    run = receipt["evidence"]["run"]
    n = sum(p["n_tokens"] for p in run["passes"])
    return float((run["user_ns"] + run["system_ns"]) / n / 1e6)


def resident(receipt: Mapping[str, Any]) -> float | None:
    """Megabytes (10⁶) that the process held at most."""
    return float(receipt["evidence"]["run"]["peak_rss_bytes"] / 1e6)


FIGURES = {
    "tokens_per_second": decode_speed,
    "prefill_ms": prefill_time,
    "cpu_ms_per_token": cpu_time,
    "rss_mb": resident,
}


@dataclass(frozen=True, slots=True)
class Sample:
    """A receipt that was read and judged; ``problem`` tells why it does not count, None if it does."""

    path: Path
    receipt: Mapping[str, Any]
    verdict: Verdict
    problem: str | None

    @property
    def is_refused(self) -> bool:
        """Whether it does not count because it is wrong; without this, what does not count only lacks evidence."""
        return bool(self.verdict.failed) or self.receipt.get("compute_path") != "real"

    @property
    def key(self) -> Key | None:
        """The key, None for a receipt that does not follow the schema or has no evidence."""
        return None if any(c.level == "E0" for c in self.verdict.failed) else key_of(self.receipt)


def read_sample(path: Path, required: str = REQUIRED) -> Sample:
    """Read a receipt and judge it. Errors: OSError; FormatError for what is no JSON object."""
    return sample_of(path.read_bytes(), path, required)


def sample_of(data: bytes, path: Path, required: str = REQUIRED) -> Sample:
    """Judge the receipt that was read from ``path``. Errors: FormatError for what is no JSON object."""
    policy = read_policy()
    verdict = judge(data, policy, required=parse_requirements(required, policy))
    receipt = strict_json.loads(data)
    if not isinstance(receipt, dict):
        raise FormatError("receipt", where=str(path), expected="a JSON object", got=type(receipt).__name__)
    problem = None
    if verdict.failed:
        problem = f"rejected by {', '.join(check.id for check in verdict.failed)}"
    elif receipt.get("compute_path") != "real":
        problem = f"compute path {receipt.get('compute_path')}"
    elif verdict.missing:
        problem = verdict.missing[0]
    return Sample(path, receipt, verdict, problem)


def read_samples(places: Sequence[Path]) -> list[Sample]:
    """The receipts at these paths, folders with all below them, by name. Errors: OSError, no file in a folder included."""
    samples = []
    for place in places:
        files = sorted(place.rglob("*.json")) if place.is_dir() else [place]
        if not files:
            raise FileNotFoundError(2, "no *.json file in this folder", str(place))
        samples += [read_sample(file) for file in files]
    return samples


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact of two receipts. ``is_binding``: another value is another result, whatever the speed."""

    item: str
    before: str
    after: str
    is_binding: bool

    @property
    def is_equal(self) -> bool:
        """True where nothing changed."""
        return self.before == self.after


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The exact facts of two receipts of one key, equal ones included."""
    one, other = _facts(before), _facts(after)
    return tuple(Difference(name, one[name][0], other[name][0], one[name][1]) for name in one)


def _facts(receipt: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    evidence = receipt["evidence"]
    run, ledger = evidence["run"], evidence["ledger"]
    work = {f["family"]: f["macs"] + f["macs_skipped"] for f in ledger["families"]}
    return {
        "schema": (receipt["schema_version"], False),
        "backend": (receipt["backend"], True),
        "compute path": (receipt["compute_path"], True),
        "kernels": (" ".join(sorted(set(receipt["kernels"]))), False),
        "prompt": (run["prompt_sha256"], True),
        "output": (evidence["repeats"][0]["output_sha256"], True),
        "logits": (str(evidence["repeats"][0]["logits_sha256"]), True),
        "numeric profile": (evidence["plan"]["profile_hash"], True),
        "graph": (evidence["plan"]["graph_hash"], False),
        "forwarded tokens": (str(ledger["n_tokens"]), True),
        "body work": (str(work["body"]), True),
        "attention work": (str(work["attention"]), True),
    }


def judge_exact(before: Mapping[str, Any], after: Mapping[str, Any]) -> Decision:
    """The gates that need no clock: FAIL where a binding fact of two receipts differs."""
    found = differences(before, after)
    figures = {"differences": [{**asdict(d), "is_equal": d.is_equal} for d in found]}
    broken = [d for d in found if d.is_binding and not d.is_equal]
    if broken:
        return Decision("FAIL", tuple(f"{d.item}: {d.before[:16]} became {d.after[:16]}" for d in broken), figures)
    changed = [d.item for d in found if not d.is_equal]
    return Decision("PASS", (f"exact gates pass{'; changed: ' + ', '.join(changed) if changed else ''}",), figures)
