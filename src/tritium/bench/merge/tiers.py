"""The gates t1 to t7 of a merge: triage, features, tests, safety, policy and performance, documentation, readiness."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tritium.bench.merge.children import Child, run_child
from tritium.bench.merge.pipeline import Outcome
from tritium.bench.merge.scope import commit, git
from tritium.bench.merge.stages import Job, Stage, build
from tritium.bench.verdict import Decision, Word

Check = Callable[[Job, Mapping[str, Stage]], Decision]

FEATURE_TOKENS = 8
NATIVE = (".c", ".cc", ".cpp", ".cu", ".h", ".hpp", ".inc", ".s", ".S")
NATIVE_HOMES = ("csrc/", "tests/fuzz/", "tests/emulation/")
EXTRAS = {
    "sign": ("cryptography",),
    "train": ("torch",),
    "crossval": ("torch", "transformers"),
    "crossval-llama": ("llama_cpp",),
    "report": ("matplotlib",),
}


def _tool(name: str, *command: str) -> Check:
    """A check that runs a Python module of the development tools."""

    def check(job: Job, _: Mapping[str, Stage]) -> Decision:
        if importlib.util.find_spec(command[0]) is None:
            return Decision("NOT MEASURED", (f"{command[0]} is not installed",))
        done = run_child([sys.executable, "-m", *command], keep=job.folder / f"{name}.txt", cwd=job.root)
        return _of(done)

    return check


def _of(done: Child) -> Decision:
    figures = {"exit_code": done.exit_code}
    if done.exit_code:
        return Decision("FAIL", (f"{done.command} ended with {done.exit_code}: {done.last_line}",), figures)
    return Decision("PASS", (done.last_line,), figures)


def import_rules(job: Job, _: Mapping[str, Stage]) -> Decision:
    """Lower layers never import higher ones."""
    program = Path(sys.executable).with_name("lint-imports")
    if not program.is_file():
        return Decision("NOT MEASURED", ("import-linter is not installed",))
    return _of(run_child([str(program), "--no-logo", "--no-cache"], keep=job.folder / "imports.txt", cwd=job.root))


def back_ends(job: Job, _: Mapping[str, Stage]) -> Decision:
    """Every back end and instruction set of this machine generates the same tokens from the same logits."""
    from tritium.backends import cpu

    hashes: dict[str, str] = {}
    wrong: list[str] = []
    choices = [(f"cpu {isa}", "cpu", {"TRITIUM_ISA": isa}) for isa in cpu.isas()] + [("reference", "reference", {})]
    for name, backend, environment in choices:
        done = job.tritium(
            f"run-{name.replace(' ', '-')}", "run", "-m", job.model, "--backend", backend, "-n", str(FEATURE_TOKENS),
            "--temperature", "0", "--json", "ROMEO:", environment=environment,
        )  # fmt: skip
        if done.exit_code:
            wrong.append(f"{name} ended with {done.exit_code}: {done.last_line}")
            continue
        hashes[name] = str(json.loads(done.out)["figures"]["logits_sha256"])
    different = len(set(hashes.values()))
    figures = {"feature_matrix": f"{len(hashes)}/{len(choices)}", "logits": hashes}
    if different > 1:
        wrong.append(f"{different} different hashes of the logits")
    if wrong:
        return Decision("FAIL", tuple(wrong), figures)
    return Decision("PASS", (f"{len(hashes)} of {len(choices)} run and give the same logits",), figures)


def self_test(job: Job, _: Mapping[str, Stage]) -> Decision:
    """The kernels of this machine on their own scenes."""
    return _of(job.tritium("self-test", "self-test"))


def extras(job: Job, _: Mapping[str, Stage]) -> Decision:
    """Every extra that is installed can be imported."""
    found: list[str] = []
    broken: list[str] = []
    absent: list[str] = []
    for extra, modules in EXTRAS.items():
        if any(importlib.util.find_spec(module) is None for module in modules):
            absent.append(extra)
            continue
        done = run_child([sys.executable, "-c", "\n".join(f"import {module}" for module in modules)])
        (broken if done.exit_code else found).append(extra)
    figures = {"extras": {"here": found, "broken": broken, "absent": absent}}
    if broken:
        return Decision("FAIL", (f"cannot be imported: {', '.join(broken)}",), figures)
    told = f"here: {', '.join(found) or 'none'}; not installed: {', '.join(absent) or 'none'}"
    return Decision("PASS" if found else "NOT MEASURED", (told,), figures)


def tests(job: Job, _: Mapping[str, Stage]) -> Decision:
    """The whole suite; counts from JUnit."""
    if not (job.root / "tests/profiles/ci.txt").is_file():
        return Decision("NOT MEASURED", ("there is no source tree here",))
    place = job.folder / "junit.xml"
    place.unlink(missing_ok=True)
    done = run_child(
        [sys.executable, "-X", "faulthandler", "-m", "pytest", "@tests/profiles/ci.txt", f"--junitxml={place}"],
        keep=job.folder / "tests.txt", cwd=job.root,
    )  # fmt: skip
    return of_junit([place]) if place.is_file() else _of(done)


def of_junit(files: list[Path]) -> Decision:
    """Counts of test cases in JUnit files. Errors: ParseError is an XML file's."""
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for file in files:
        for suite in ElementTree.parse(file).iter("testsuite"):
            for name in counts:
                counts[name] += int(suite.get(name, 0))
    bad = counts["failures"] + counts["errors"]
    passed = counts["tests"] - bad - counts["skipped"]
    told = f"{passed} of {counts['tests']} passed, {bad} failed, {counts['skipped']} skipped"
    if not counts["tests"]:
        return Decision("INCONCLUSIVE", ("no test ran",), counts)
    return Decision("FAIL" if bad else "PASS", (told,), counts)


def policy_part(name: str) -> Check:
    """A part of what ``make policy`` found: licenses, vulnerabilities or sources."""

    def check(job: Job, _: Mapping[str, Stage]) -> Decision:
        place = job.root / "build/policy/policy.json"
        if not place.is_file():
            return Decision("PENDING", ("make policy has not run",))
        record = json.loads(place.read_text(encoding="utf-8"))
        part: dict[str, Any] = record["parts"][name]
        word: Word = "INCONCLUSIVE" if part["status"] == "NOT MEASURED" else part["status"]
        told = tuple(part["failures"]) or (
            f"{part['checked']} of {record['distributions']} looked at",
            *part["remarks"],
        )
        return Decision(word, told, {f"{name}_failures": len(part["failures"]), "policy_tools": record["tools"]})

    return check


def sanitizers(job: Job, _: Mapping[str, Stage]) -> Decision:
    """What ``make sanitize`` found, if it ran on this very source of the native core."""
    files = [job.root / f"build/{name}/junit.xml" for name in ("asan", "tsan")]
    if not all(file.is_file() for file in files):
        return Decision("PENDING", ("make sanitize has not run",))
    sources = [p for p in (job.root / "csrc").rglob("*") if p.is_file()]
    if max(p.stat().st_mtime for p in sources) > min(file.stat().st_mtime for file in files):
        return Decision("PENDING", ("make sanitize ran before the native core changed",))
    return of_junit(files)


def native_bounds(job: Job, _: Mapping[str, Stage]) -> Decision:
    """Native code stands in one folder."""
    files = git(job.root, "ls-files", "-z").split("\0")
    native = [name for name in files if name.endswith(NATIVE)]
    outside = [name for name in native if not name.startswith(NATIVE_HOMES)]
    figures = {"native_files": len(native)}
    if outside:
        return Decision("FAIL", (f"native code outside csrc/: {', '.join(outside)}",), figures)
    return Decision("PASS", (f"{len(native)} native files, all in {' or '.join(NATIVE_HOMES)}",), figures)


def performance(job: Job, _: Mapping[str, Stage]) -> Decision:
    """What the gate of benchmarks said last, if it judged this commit."""
    runs = sorted((job.root / "ci/receipts").glob("pr-*/gate-benchmarks.json"), key=lambda p: p.stat().st_mtime)
    if not runs:
        return Decision("PENDING", ("tritium gate benchmarks has not run",))
    record = json.loads(runs[-1].read_text(encoding="utf-8"))
    if record["head_sha"] != commit(job.root):
        return Decision("PENDING", (f"{runs[-1].parent.name} judged another commit, {record['head_sha']}",))
    return Decision(
        record["decision"]["verdict"], tuple(record["decision"]["reasons"]), {"performance": record["metrics"]}
    )


def documentation(job: Job, _: Mapping[str, Stage]) -> Decision:
    """Claims bound to evidence; commands, environment lines and links of every page."""
    done = job.tritium("docs-audit", "docs-audit", "--json")
    if not done.out.startswith("{"):
        return _of(done)
    found = json.loads(done.out)
    bad = [c for c in found["claims"] if c["status"] in ("unverified", "wrong")]
    figures = {"claims": len(found["claims"]), "claims_to_correct": len(bad), "findings": len(found["findings"])}
    reasons = [f"{c['path']}:{c['line']}: {c['claim']} {c['status']}" for c in bad]
    reasons += [f"{f['path']}:{f['line']}: {f['message']}" for f in found["findings"]]
    if reasons:
        return Decision("FAIL", tuple(reasons), figures)
    return Decision("PASS", (f"{figures['claims']} claims, all backed; nothing else found",), figures)


CHECKLIST: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("scripts", ("scripts/perf_phase2_timing.sh", "scripts/phase2_flamegraph.sh")),
    ("schema", ("docs/receipt.schema.json",)),
    ("examples", ("docs/tdd/receipts/cpu_positive_example.json", "docs/tdd/receipts/cpu_negative_example.json")),
    ("verification", ("src/tritium/cli/verify_receipt.py", "src/tritium/gates/__main__.py")),
    ("generation", ("src/tritium/cli/benchmark.py", "src/tritium/evidence/record.py")),
    ("test configuration", ("tests/profiles/default.txt", "tests/profiles/ci.txt")),
    ("CI", (".github/workflows/ci.yml",)),
    ("receipt workflow", (".github/workflows/verify-receipts.yml",)),
    ("artifacts", ("docs/baselines",)),
)
"""Items of the checklist that are files; the others are read from the gates' outcomes and the receipts."""


def checklist(job: Job, _: Mapping[str, Stage]) -> Decision:
    """The files that a merge needs are there."""
    missing = [f"{item}: {name}" for item, names in CHECKLIST for name in names if not (job.root / name).exists()]
    if missing:
        return Decision("FAIL", tuple(f"missing {name}" for name in missing))
    return Decision("PASS", (f"{len(CHECKLIST)} items",))


def receipts_of_the_run(job: Job, _: Mapping[str, Stage]) -> Decision:
    """Determinism, fingerprint and coverage: what the last receipt of a benchmark holds."""
    place = job.root / "ci/inference.json"
    if not place.is_file():
        return Decision("PENDING", ("there is no ci/inference.json: tritium benchmark",))
    receipt = json.loads(place.read_bytes())
    evidence = receipt.get("evidence") or {}
    lacking = [name for name in ("machine", "build", "plan", "ledger") if name not in evidence]
    if not receipt.get("deterministic"):
        lacking.append("equal repeats")
    if lacking:
        return Decision("FAIL", (f"the receipt lacks {', '.join(lacking)}",))
    return Decision("PASS", ("deterministic, with fingerprint, plan and ledger",))


def outcome_of(tier: str) -> Check:
    """What another gate said last, if it judged this commit."""

    def check(job: Job, _: Mapping[str, Stage]) -> Decision:
        place = job.folder.parent / tier / "gate.json"
        if not place.is_file():
            return Decision("PENDING", (f"tritium gate {tier} has not run",))
        record = json.loads(place.read_text(encoding="utf-8"))
        if record["commit"] != commit(job.root):
            return Decision("PENDING", (f"tritium gate {tier} judged another commit",))
        return Decision(record["word"], tuple(f"{s['name']} {s['verdict']}" for s in record["stages"]))

    return check


def gpu(job: Job, _: Mapping[str, Stage]) -> Decision:
    """Rows that need a GPU."""
    from tritium.backends import BACKENDS

    if "cuda" not in BACKENDS:
        return Decision("NOT MEASURED", ("this version has no GPU back end",))
    return _of(job.tritium("cuda", "run", "-m", job.model, "--device", "cuda", "-n", "8", "ROMEO:"))


TIERS: Mapping[str, tuple[str, tuple[tuple[str, Check], ...]]] = {
    "t1": (
        "Triage: format, lint, types, layers, build",
        (
            ("format", _tool("format", "ruff", "format", "--check", ".")),
            ("lint", _tool("lint", "ruff", "check", ".")),
            ("types", _tool("types", "mypy")),
            ("layers", import_rules),
            ("build", build),
        ),
    ),
    "t2": (
        "Features: back ends, instruction sets and extras of this machine",
        (("back ends", back_ends), ("self-test", self_test), ("extras", extras), ("GPU", gpu)),
    ),
    "t3": ("Tests: the whole suite", (("tests", tests),)),
    "t4": (
        "Safety: vulnerabilities, sanitizers, bounds of native code",
        (
            ("vulnerabilities", policy_part("vulnerabilities")),
            ("sanitizers", sanitizers),
            ("native code", native_bounds),
        ),
    ),
    "t5": (
        "Policy and performance",
        (
            ("licenses", policy_part("licenses")),
            ("vulnerabilities", policy_part("vulnerabilities")),
            ("sources", policy_part("sources")),
            ("performance", performance),
            ("GPU", gpu),
        ),
    ),
    "t6": ("Documentation: claims, commands and links", (("documentation", documentation),)),
    "t7": (
        "Readiness: the checklist and all other gates",
        (
            ("checklist", checklist),
            ("receipt", receipts_of_the_run),
            *((tier, outcome_of(tier)) for tier in ("t1", "t2", "t3", "t4", "t5", "t6")),
            ("benchmarks", performance),
        ),
    ),
}


def record(outcome: Outcome, root: Path, tools: Mapping[str, str]) -> dict[str, Any]:
    """A gate's outcome as JSON."""
    return {
        "gate": outcome.gate,
        "word": outcome.word,
        "commit": commit(root),
        "started": outcome.started.isoformat(),
        "ended": outcome.ended.isoformat(),
        "tools": dict(tools),
        "stages": [{"name": s.name, "seconds": s.seconds, **s.decision.as_json()} for s in outcome.stages],
    }


def tool_versions() -> dict[str, str]:
    """Versions of the tools that gates use; "absent" where one is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for name in ("tritium", "ruff", "mypy", "import-linter", "pytest", "pip-audit"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    for program in ("cmake", "ninja", "git", "c++"):
        try:
            text = run_child([program, "--version"]).out
        except FileNotFoundError:
            found[program] = "absent"
            continue
        number = re.search(r"\d+(?:\.\d+)+", text)
        found[program] = number[0] if number else "unknown"
    return found
