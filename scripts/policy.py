"""Judge the dependencies of an environment: licenses, known vulnerabilities, sources; and write its bill of materials.

Raw outputs of the tools and ``policy.json``, which holds a verdict for each part, go to a folder. A part that nobody could look
at is NOT MEASURED, never PASS. Exit 0: nothing failed; 1: a part failed; with --strict also where a part was not measured.
Sources: PEP 639 (license expressions), PEP 610 (where a distribution came from), CycloneDX 1.6.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

from license_expression import ExpressionError, get_spdx_licensing

TOOLS = ("pip-audit", "cyclonedx-bom", "license-expression")
WAIVABLE = ("medium", "low")
# Trove classifiers that name exactly one license of the SPDX list.
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}
# "BSD License" names a family; its text tells the members apart.
NON_ENDORSEMENT = re.compile(r"neither the names? of|may be used to\s+endorse", re.IGNORECASE)


@dataclass(slots=True)
class Part:
    """A judged part: PASS, FAIL or NOT MEASURED, what failed, and remarks that fail nothing."""

    name: str
    status: str = "PASS"
    checked: int = 0
    failures: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def fail(self, sentence: str) -> None:
        self.status = "FAIL"
        self.failures.append(sentence)


def license_of(distribution: Distribution) -> str:
    """The license expression of a distribution, "" where its metadata gives none that can be read.

    In this order: the field License-Expression, a field License that parses as an expression, classifiers.
    """
    meta = distribution.metadata
    for name in ("License-Expression", "License"):
        text = str(meta[name] or "").strip()
        if text and "\n" not in text and is_expression(text):
            return text
    names = [
        c.rsplit(" :: ", 1)[1] for c in meta.get_all("Classifier") or [] if c.startswith("License :: OSI Approved :: ")
    ]
    known = [CLASSIFIERS[name] for name in names if name in CLASSIFIERS]
    if "BSD License" in names:
        known.append(_bsd(distribution))
    return " OR ".join(known) if known and len(known) == len(names) and all(known) else ""


def _bsd(distribution: Distribution) -> str:
    texts = [
        Path(str(file.locate())).read_text(encoding="utf-8", errors="replace")
        for file in distribution.files or []
        if file.name.upper().startswith(("LICENSE", "LICENCE", "COPYING"))
    ]
    bsd = [text for text in texts if "Redistribution and use in source and binary forms" in text]
    if not bsd:
        return ""
    return "BSD-3-Clause" if any(NON_ENDORSEMENT.search(text) for text in bsd) else "BSD-2-Clause"


def is_expression(text: str) -> bool:
    """Whether a text is an SPDX expression of known licenses."""
    try:
        parsed = get_spdx_licensing().parse(text, validate=True, strict=True)
    except ExpressionError:
        return False
    return parsed is not None


def is_allowed(expression: str, allowed: Sequence[str]) -> bool:
    """Whether an expression can be met with allowed licenses only."""
    licensing = get_spdx_licensing()
    return bool(_holds(licensing.parse(expression, validate=True), frozenset(allowed), licensing))


def _holds(node: Any, allowed: frozenset[str], licensing: Any) -> bool:
    if isinstance(node, licensing.AND):
        return all(_holds(term, allowed, licensing) for term in node.args)
    if isinstance(node, licensing.OR):
        return any(_holds(term, allowed, licensing) for term in node.args)
    return str(node) in allowed


def judge_licenses(found: Mapping[str, str], rules: Mapping[str, Any]) -> Part:
    """Licenses by distribution against the rules; an allowance or reading that nothing uses is a remark."""
    part = Part("licenses", checked=len(found))
    allowed, by_hand = list(rules["allowed"]), dict(rules.get("read_by_hand", {}))
    used = set()
    for name, expression in sorted(found.items()):
        read = expression or by_hand.get(name, "")
        if not read:
            part.fail(f"{name}: no license that a program can read; read it and add it to read_by_hand")
        elif not is_allowed(read, allowed):
            part.fail(f"{name}: {read} is not allowed")
        used.update(re.findall(r"[A-Za-z0-9.+-]+", read))
    part.remarks += [f"allowance {name} is not used" for name in allowed if name not in used]
    part.remarks += [f"{name} is read by hand and needs not be" for name in by_hand if found.get(name)]
    return part


def judge_vulnerabilities(
    report: Mapping[str, Any] | None, waivers: Sequence[Mapping[str, Any]], today: dt.date
) -> Part:
    """The report of pip-audit against waivers. A distribution that the service skipped was not measured."""
    part = Part("vulnerabilities")
    if report is None:
        part.status = "NOT MEASURED"
        part.remarks.append("the vulnerability service did not answer")
        return part
    unused = {(w["package"], w["id"]): w for w in waivers}
    skipped = [d["skip_reason"] for d in report["dependencies"] if "skip_reason" in d and d["name"] != "tritium"]
    for dependency in report["dependencies"]:
        part.checked += "skip_reason" not in dependency
        for flaw in dependency.get("vulns", ()):
            names = (flaw["id"], *flaw.get("aliases", ()))
            key = next(((dependency["name"], n) for n in names if (dependency["name"], n) in unused), None)
            waiver = unused.pop(key) if key else None
            sentence = f"{dependency['name']} {dependency['version']}: {flaw['id']}"
            if waiver is None:
                part.fail(f"{sentence}; fixed in {', '.join(flaw['fix_versions']) or 'no version'}")
            elif waiver["expires"] < today or waiver["severity"] not in WAIVABLE:
                part.fail(f"{sentence}: its waiver has expired or waives a {waiver['severity']} flaw")
            else:
                part.remarks.append(f"{sentence} is waived until {waiver['expires']}: {waiver['mitigation']}")
    for package, name in unused:
        part.fail(f"the waiver of {name} in {package} matches nothing")
    if skipped and part.status == "PASS":
        part.status = "NOT MEASURED"
    if skipped:
        part.remarks.append(f"{len(skipped)} distributions were not audited, the first for this: {skipped[0]}")
    return part


def judge_sources(found: Mapping[str, str], required: Sequence[str], rules: Mapping[str, Any]) -> Part:
    """Direct URLs by distribution, and the project's own requirements, which must name no URL."""
    part = Part("sources", checked=len(found))
    for name, url in sorted(found.items()):
        if url and name not in rules["allowed"]:
            part.fail(f"{name}: installed from {url}, not from a package index")
    for requirement in required:
        if "@" in requirement:
            part.fail(f"requirement {requirement!r} names a source")
    return part


def direct_url(distribution: Distribution) -> str:
    """Where a distribution was installed from if that was no index, else ""."""
    text = distribution.read_text("direct_url.json")
    return str(json.loads(text)["url"]) if text else ""


def requirements(project: Mapping[str, Any]) -> list[str]:
    """All requirements that pyproject.toml names: to build, to run, and of the extras."""
    about = project["project"]
    extras = [r for group in about.get("optional-dependencies", {}).values() for r in group]
    return [*project["build-system"]["requires"], *about["dependencies"], *extras]


def audit(site: Path, output: Path) -> Mapping[str, Any] | None:
    """Run pip-audit over the folder of an environment; None where its service does not answer."""
    command = [sys.executable, "-m", "pip_audit", "--path", str(site), "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    output.write_text(done.stdout or done.stderr, encoding="utf-8")
    try:
        report = json.loads(done.stdout)
    except ValueError:
        return None
    return report if isinstance(report, dict) else None


def tool_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--python", type=Path, default=Path(".venv/bin/python"), help="interpreter of the environment")
    parser.add_argument("--policy", type=Path, default=Path("ci/policy.toml"))
    parser.add_argument("--output", type=Path, default=Path("build/policy"), help="folder of raw outputs and verdicts")
    parser.add_argument("--strict", action="store_true", help="a part that was not measured fails")
    options = parser.parse_args(arguments)
    policy = tomllib.loads(options.policy.read_text(encoding="utf-8"))
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([str(options.python), "-c", query], text=True).strip())
    options.output.mkdir(parents=True, exist_ok=True)

    installed = {d.metadata["Name"].lower(): d for d in distributions(path=[str(site)])}
    licenses = {name: license_of(d) for name, d in installed.items()}
    urls = {name: direct_url(d) for name, d in installed.items()}
    (options.output / "licenses.json").write_text(
        json.dumps(licenses, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    (options.output / "sources.json").write_text(json.dumps(urls, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    sbom = options.output / "sbom.cdx.json"
    subprocess.check_call(
        [
            sys.executable,
            "-m",
            "cyclonedx_py",
            "environment",
            "--output-reproducible",
            "-o",
            str(sbom),
            str(options.python),
        ]
    )
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    parts = [
        judge_licenses(licenses, policy["licenses"]),
        judge_vulnerabilities(
            audit(site, options.output / "vulnerabilities.json"), policy.get("waiver", ()), dt.date.today()
        ),
        judge_sources(urls, requirements(project), policy["sources"]),
    ]
    record = {
        "date": dt.date.today().isoformat(),
        "tools": {name: tool_version(name) for name in TOOLS},
        "distributions": len(installed),
        "parts": {part.name: asdict(part) for part in parts},
    }
    (options.output / "policy.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for part in parts:
        print(f"{part.name:<16} {part.status:<13} {part.checked} of {len(installed)} looked at")
        for sentence in (*part.failures, *part.remarks):
            print(f"  {sentence}")
    bad = {"FAIL", "NOT MEASURED"} if options.strict else {"FAIL"}
    return int(any(part.status in bad for part in parts))


if __name__ == "__main__":
    sys.exit(main())
