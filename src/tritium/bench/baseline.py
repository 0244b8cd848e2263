"""Baselines: sets of accepted receipts of one key and one clean commit, with a parity block, in dated folders.

``docs/baselines/<date>/<slug>.json`` describes a set whose receipts lie in the folder of the same name; the receipts are the
truth, and reading a set recomputes its figures from them. ``ci/baseline.json`` names the released sets, in the form of old:
``{"cpu": {"<name>": {"tok_s": …, "rss_mb": …}}, "metadata": {"updated": …}}``.
"""

from __future__ import annotations

import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tritium.bench.figures import FIGURES, Key, Sample, differences, digits, judge_exact, key_of, read_sample
from tritium.bench.regression import RATCHET, judge_classic, judge_envelope, judge_ratchet, spread, usable
from tritium.bench.stats import summarize
from tritium.bench.verdict import Decision, together
from tritium.errors import FormatError, GateError
from tritium.gates import Check, check
from tritium.receipts import jcs, schema, strict_json
from tritium.receipts.files import write_text

DIRECTORY = Path("docs/baselines")
RELEASE = Path("ci/baseline.json")
LEAST_RECEIPTS = 5
KIND = "tritium baseline"
VERSION = "1.0"
_DATED = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})")


@dataclass(frozen=True, slots=True)
class Baseline:
    """A set as it was read: its own file, the document in it, and its receipts."""

    path: Path
    document: Mapping[str, Any]
    samples: tuple[Sample, ...]

    @property
    def key(self) -> Key:
        """What it may be compared with."""
        return Key(**self.document["key"])

    @property
    def speeds(self) -> list[float | None]:
        """Decode speeds of its receipts."""
        return [FIGURES["tokens_per_second"](sample.receipt) for sample in self.samples]


def refusal(sample: Sample) -> str | None:
    """Why a receipt makes no baseline, None if it does."""
    if sample.problem is not None:
        return sample.problem
    build = sample.receipt["evidence"]["build"] if "evidence" in sample.receipt else {}
    if "commit" not in build:
        return "it does not name the commit it was built from"
    if build.get("dirty", True):
        return "it was built from a dirty tree"
    if not sample.receipt["deterministic"]:
        return "its output was not repeated"
    if not usable(FIGURES["tokens_per_second"](sample.receipt)):
        return "it has no decode speed"
    return None


def collect(samples: Iterable[Sample], parity: Mapping[str, Any], moment: datetime) -> list[dict[str, Any]]:
    """The documents of the sets that these receipts make, one for each key and commit.

    Errors: GateError for a receipt that makes no baseline, too few of a key, two that are one run or of two builds, two that
    differ in a fact that binds, or speeds that scatter.
    """
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        why = refusal(sample)
        if why is not None:
            raise GateError("not a receipt of a baseline", where=str(sample.path), got=why)
        key = key_of(sample.receipt)
        assert key is not None
        groups[key.id, sample.receipt["evidence"]["build"]["commit"]].append(sample)
    return [_describe(group, parity, moment) for group in groups.values()]


def _describe(group: Sequence[Sample], parity: Mapping[str, Any], moment: datetime) -> dict[str, Any]:
    first = group[0]
    key = key_of(first.receipt)
    assert key is not None
    if len(group) < LEAST_RECEIPTS:
        raise GateError(
            "too few receipts",
            where=key.slug,
            expected=f"{LEAST_RECEIPTS} or more of one key and commit",
            got=len(group),
        )
    times = {tuple(sample.receipt["evidence"]["run"]["token_ns"]) for sample in group}
    if len(times) < len(group):
        raise GateError("two receipts of one run", where=key.slug, expected=f"{len(group)} runs", got=len(times))
    _check_spread(group, key)
    for sample in group[1:]:
        if sample.receipt["evidence"]["build"] != first.receipt["evidence"]["build"]:
            raise GateError("receipts of different builds of one commit", where=str(sample.path))
        for found in differences(first.receipt, sample.receipt):
            if not found.is_equal:
                raise GateError(
                    f"receipts differ in {found.item}", where=str(sample.path), expected=found.before, got=found.after
                )
    evidence = first.receipt["evidence"]
    return {
        "kind": KIND,
        "version": VERSION,
        "date": moment.date().isoformat(),
        "key": asdict(key),
        "key_id": key.id,
        "commit": evidence["build"]["commit"],
        "build": dict(evidence["build"]),
        "model": first.receipt["model"]["path"],
        "performance": performance(sample.receipt for sample in group),
        "parity": {
            "receipts_agree": True,
            "prompt_sha256": evidence["run"]["prompt_sha256"],
            "output_sha256": evidence["run"]["output_sha256"],
            "logits_sha256": evidence["run"]["logits_sha256"],
            "graph_hash": evidence["plan"]["graph_hash"],
            "profile_hash": evidence["plan"]["profile_hash"],
            "replay": dict(parity),
        },
        "receipts": [
            {"file": f"{index:02d}.json", "receipt_id": jcs.digest(sample.receipt)}
            for index, sample in enumerate(_by_time(group), 1)
        ],
    }


def _check_spread(group: Sequence[Sample], key: Key) -> None:
    speeds = [speed for sample in group if (speed := FIGURES["tokens_per_second"](sample.receipt)) is not None]
    found = 100 * spread(speeds)
    if found > RATCHET.spread_percent:
        raise GateError(
            "the receipts scatter too much for a baseline", where=key.slug, expected=f"{RATCHET.spread_percent:g} % or less",
            got=f"{found:.3g} %", hint="Measure while nothing else runs",
        )  # fmt: skip


def _by_time(group: Iterable[Sample]) -> list[Sample]:
    return sorted(group, key=lambda sample: schema.parse_time(sample.receipt["timestamp"]))


def performance(receipts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Summaries of the figures of several receipts, by name; null where a receipt has none."""
    every = list(receipts)
    found = {}
    for name, figure in FIGURES.items():
        values = [value for receipt in every if (value := figure(receipt)) is not None]
        found[name] = _rounded(asdict(summarize(values))) if len(values) == len(every) else None
    return found


def _rounded(summary: Mapping[str, float]) -> dict[str, float]:
    return {name: value if name == "n" else float(f"{value:.6g}") for name, value in summary.items()}


def write_set(document: Mapping[str, Any], samples: Sequence[Sample], directory: Path) -> Path:
    """Write a set and copies of its receipts; returns the set's file, which is written last.

    Errors: GateError if it is there already; OSError.
    """
    key = Key(**document["key"])
    name = f"{key.slug}-{document['commit'][:8]}"
    target = directory / str(document["date"]) / f"{name}.json"
    if target.exists():
        raise GateError(
            "this baseline is there already", where=str(target), hint="A set is never changed: remove it first"
        )
    mine = {jcs.digest(sample.receipt): sample for sample in samples}
    for row in document["receipts"]:
        schema.write(mine[row["receipt_id"]].receipt, target.with_suffix("") / row["file"])
    write_json(document, target)
    return target


def write_json(document: Mapping[str, Any], path: Path) -> None:
    """Write a document so that the file is there whole or not at all."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_set(path: Path) -> Baseline:
    """Read a set, judge its receipts again and compare what it says with them.

    Errors: OSError; FormatError for what is no set; GateError where it does not follow from its receipts.
    """
    document = strict_json.loads(path.read_bytes())
    if not isinstance(document, dict) or document.get("kind") != KIND or document.get("version") != VERSION:
        raise FormatError("not a baseline", where=str(path), expected=f"kind {KIND!r}, version {VERSION}")
    try:
        samples = tuple(read_sample(path.with_suffix("") / row["file"]) for row in document["receipts"])
        moment = datetime.fromisoformat(document["date"]).replace(tzinfo=UTC)
        again = collect(samples, document["parity"]["replay"], moment)
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError("baseline", where=str(path), got=f"{type(error).__name__} {error}") from None
    if len(again) != 1 or again[0] != document:
        wrong = [name for name in document if len(again) == 1 and again[0].get(name) != document[name]]
        raise GateError(
            "the baseline does not follow from its receipts", where=str(path), got=", ".join(wrong) or "several keys"
        )
    return Baseline(path, document, samples)


def archive(directory: Path = DIRECTORY) -> Iterator[Path]:
    """Files of sets and single dated receipts under a folder, the oldest first: ``YYYY-MM-DD/*.json`` and ``YYYYMMDD-*.json``."""
    dated = []
    for path in (*directory.glob("*/*.json"), *directory.glob("*.json")):
        name = path.name if path.parent == directory else path.parent.name
        match = _DATED.match(name)
        if match:
            dated.append(("".join(match.groups()), path))
    return (path for _, path in sorted(dated))


def is_set(path: Path) -> bool:
    """True of a file that says it is a baseline; False of a receipt or of no JSON."""
    try:
        document = strict_json.loads(path.read_bytes())
    except FormatError:
        return False
    return isinstance(document, dict) and document.get("kind") == KIND


@dataclass(frozen=True, slots=True)
class Release:
    """An entry of ``ci/baseline.json``: figures of old, and the set behind them, None for an entry without receipts."""

    backend: str
    name: str
    tok_s: float | None
    rss_mb: float | None
    set_path: Path | None
    key_id: str | None


def read_release(path: Path = RELEASE) -> list[Release]:
    """The entries of a release file. Errors: OSError; FormatError for another shape."""
    document = strict_json.loads(path.read_bytes())
    entries = []
    if not isinstance(document, dict):
        raise FormatError("release baselines", where=str(path), expected="a JSON object")
    for backend, rows in document.items():
        if backend == "metadata":
            continue
        if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
            raise FormatError("release baselines", where=f"{path}: {backend}", expected="entries by name")
        for name, row in rows.items():
            place = row.get("set")
            figures = [row.get(figure) for figure in ("tok_s", "rss_mb")]
            if not all(f is None or (isinstance(f, (int, float)) and not isinstance(f, bool)) for f in figures):
                raise FormatError(
                    "release baselines", where=f"{path}: {backend}.{name}", expected="numbers", got=figures
                )
            entries.append(
                Release(backend, name, figures[0], figures[1], Path(place) if place else None, row.get("key_id"))
            )
    return entries


def judge_against(baseline: Baseline, samples: Sequence[Sample]) -> Decision:
    """Receipts of the baseline's key against it: the exact facts of each, then the medians of both."""
    first = baseline.samples[0].receipt
    exact = [judge_exact(first, sample.receipt) for sample in samples]
    current = [FIGURES["tokens_per_second"](sample.receipt) for sample in samples]
    return together([*exact, judge_ratchet(baseline.speeds, current)])


def judge_receipts(
    samples: Sequence[Sample], baselines: Sequence[Baseline], entries: Sequence[Release], policy: str
) -> Decision:
    """Receipts of one key against what there is for it, by the policy of that name.

    ``ratchet`` wants a set of their key, ``classic`` an entry of the release file, ``envelope`` nothing. A receipt that the
    judge refuses is FAIL; one that lacks evidence, or nothing comparable, is INCONCLUSIVE.
    """
    doubted = [sample for sample in samples if sample.problem is not None]
    if doubted:
        refused = any(sample.is_refused for sample in doubted)
        return Decision("FAIL" if refused else "INCONCLUSIVE", tuple(f"{s.path}: {s.problem}" for s in doubted))
    if policy == "envelope":
        return together(_judge_envelope(sample.receipt) for sample in samples)
    keys = {sample.key for sample in samples}
    key = next(iter(keys))
    if key is None or len(keys) != 1:
        return Decision("INCONCLUSIVE", ("receipts without one common key cannot be compared",))
    if policy == "classic":
        return _judge_classic(samples, entries, key)
    found = [baseline for baseline in baselines if baseline.key == key]
    if not found:
        return Decision("INCONCLUSIVE", (f"no comparable baseline: {key.slug}",))
    return judge_against(found[-1], samples)


def baseline_check(baseline: Baseline, sample: Sample) -> Check:
    """A receipt against a set, as a check of its speed: another key, or noise, is in doubt; more speed is told and passes."""
    decision = judge_receipts([sample], [baseline], (), "ratchet")
    passes = {"PASS": True, "ATTENTION": True, "FAIL": False}.get(decision.word)
    told = f"{decision.word}: {'; '.join(decision.reasons)}"
    return check(
        "baseline", "E2", passes, told, str(baseline.path), "Another result or another speed than the baseline's"
    )


def _judge_envelope(receipt: Mapping[str, Any]) -> Decision:
    return judge_envelope(
        backend=receipt["backend"],
        kernels=receipt["kernels"],
        compute_path=receipt["compute_path"],
        deterministic=receipt["deterministic"],
        tokens_per_second=FIGURES["tokens_per_second"](receipt),
    )


def _judge_classic(samples: Sequence[Sample], entries: Sequence[Release], key: Key) -> Decision:
    """An entry with a key has to have this one; a named one of old, which has none, is taken at its word if it stands alone."""
    found = [entry for entry in entries if entry.key_id == key.id] or [
        entry for entry in entries if entry.key_id is None and len(entries) == 1 and entry.backend == key.backend
    ]
    if not found:
        return Decision("INCONCLUSIVE", (f"no comparable baseline: {key.slug}",))
    speeds = [speed for sample in samples if (speed := FIGURES["tokens_per_second"](sample.receipt)) is not None]
    return judge_classic(found[0].tok_s, statistics.median(speeds) if speeds else None)


def promote(baseline: Baseline, release: Path, *, reason: str | None, moment: datetime) -> Decision:
    """Make a set the one that others are held against; the ratchet only goes up.

    A slower set is FAIL and a suspiciously fast one ATTENTION; neither changes anything, unless there is a ``reason``, which is
    recorded. Errors: OSError; FormatError.
    """
    document = strict_json.loads(release.read_bytes()) if release.exists() else {}
    entries = read_release(release) if release.exists() else []
    key = baseline.key
    median = baseline.document["performance"]["tokens_per_second"]["median"]
    now = next((entry for entry in entries if entry.key_id == key.id), None)
    if now is not None and usable(now.tok_s) and reason is None:
        assert now.tok_s is not None
        decision = judge_classic(now.tok_s, median)
        if median < now.tok_s:
            told = f"{digits(median)} tok/s is below the released {digits(now.tok_s)}: give --reason TEXT"
            return Decision("FAIL", (told,), decision.figures)
        if decision.word == "ATTENTION":
            told = "never a baseline by itself: give --reason TEXT"
            return Decision("ATTENTION", (*decision.reasons, told), decision.figures)
    row = {
        "tok_s": median,
        "rss_mb": baseline.document["performance"]["rss_mb"]["median"],
        "key_id": key.id,
        "set": baseline.path.as_posix(),
        "commit": baseline.document["commit"],
        **({"reason": reason} if reason else {}),
    }
    name = now.name if now is not None else key.slug
    document.setdefault(key.backend, {})[name] = row
    document["metadata"] = {**document.get("metadata", {}), "updated": moment.strftime("%Y-%m-%dT%H:%M:%SZ")}
    write_json(document, release)
    return Decision("PASS", (f"{name}: {digits(median)} tok/s released",), {"name": name, **row})
