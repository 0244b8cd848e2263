"""The policy of dependencies: licenses, vulnerabilities and sources, judged from what the tools say."""

from __future__ import annotations

import datetime as dt
import importlib.util
import json
import sys
from importlib.metadata import PathDistribution
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TODAY = dt.date(2026, 3, 1)
ALLOWED = {"allowed": ["MIT", "Apache-2.0", "BSD-3-Clause"]}
FLAW = {"id": "PYSEC-2026-1", "aliases": ["CVE-2026-1"], "fix_versions": ["2.0"]}
WAIVER = {
    "id": "CVE-2026-1",
    "package": "thing",
    "severity": "medium",
    "scope": "tests",
    "mitigation": "not reachable",
    "expires": dt.date(2026, 4, 1),
}
CLAUSES = "Redistribution and use in source and binary forms\n"


@pytest.fixture(scope="module")
def policy(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("policy", repository / "scripts/policy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["policy"] = module
    spec.loader.exec_module(module)
    return module


def distribution(folder: Path, *fields: str, text: str = "") -> PathDistribution:
    """A distribution with these fields of metadata and this text of its license."""
    info = folder / "thing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "\n".join(("Metadata-Version: 2.4", "Name: thing", "Version: 1.0", *fields)), encoding="utf-8"
    )
    (info / "RECORD").write_text("thing-1.0.dist-info/LICENSE,,\n", encoding="utf-8")
    (info / "LICENSE").write_text(text, encoding="utf-8")
    return PathDistribution(info)


@pytest.mark.parametrize(
    ("fields", "text", "expression"),
    [
        (["License-Expression: MIT AND Zlib"], "", "MIT AND Zlib"),
        (["License-Expression: MIT", "License: something else"], "", "MIT"),
        (["License: Apache-2.0"], "", "Apache-2.0"),
        (
            ["License: Apache Software License 2.0", "Classifier: License :: OSI Approved :: Apache Software License"],
            "",
            "Apache-2.0",
        ),
        (["Classifier: License :: OSI Approved :: BSD License"], CLAUSES + "Neither the name of", "BSD-3-Clause"),
        (["Classifier: License :: OSI Approved :: BSD License"], CLAUSES, "BSD-2-Clause"),
        (["Classifier: License :: OSI Approved :: BSD License"], "", ""),
        (["Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)"], "", ""),
        (["License: UNKNOWN"], "", ""),
        ([], "", ""),
    ],
)
def test_the_license_is_read_from_metadata(
    policy: ModuleType, tmp_path: Path, fields: list[str], text: str, expression: str
) -> None:
    assert policy.license_of(distribution(tmp_path, *fields, text=text)) == expression


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("MIT", True),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only AND MIT", False),
        ("(MIT OR GPL-3.0-only) AND Apache-2.0", True),
        ("Apache-2.0 WITH LLVM-exception", False),
    ],
)
def test_an_expression_must_be_met_by_allowed_licenses(policy: ModuleType, expression: str, holds: bool) -> None:
    assert policy.is_allowed(expression, ALLOWED["allowed"]) is holds


def test_licenses_fail_where_unknown_or_not_allowed_and_unused_allowances_are_told(policy: ModuleType) -> None:
    part = policy.judge_licenses({"a": "MIT", "b": "GPL-3.0-only", "c": ""}, ALLOWED)
    assert part.status == "FAIL"
    assert [f.partition(":")[0] for f in part.failures] == ["b", "c"]
    assert "allowance BSD-3-Clause is not used" in part.remarks
    by_hand = policy.judge_licenses({"c": ""}, {**ALLOWED, "read_by_hand": {"c": "MIT"}})
    assert by_hand.status == "PASS"


def report(**more: Any) -> dict[str, Any]:
    """A report of the audit with one flawed distribution."""
    return {
        "dependencies": [
            {"name": "thing", "version": "1.0", "vulns": [FLAW]},
            more or {"name": "other", "version": "1", "vulns": []},
        ]
    }


def test_a_known_vulnerability_fails_unless_waived_for_now(policy: ModuleType) -> None:
    judge = policy.judge_vulnerabilities
    assert judge(report(), [], TODAY).status == "FAIL"
    assert judge(report(), [WAIVER], TODAY).status == "PASS"
    assert judge(report(), [{**WAIVER, "expires": dt.date(2026, 2, 28)}], TODAY).status == "FAIL"
    assert judge(report(), [{**WAIVER, "severity": "high"}], TODAY).status == "FAIL"
    assert judge({"dependencies": []}, [WAIVER], TODAY).failures == [
        "the waiver of CVE-2026-1 in thing matches nothing"
    ]


def test_what_the_service_did_not_look_at_is_not_measured(policy: ModuleType) -> None:
    assert policy.judge_vulnerabilities(None, [], TODAY).status == "NOT MEASURED"
    skipped = {"dependencies": [{"name": "other", "skip_reason": "not found"}]}
    part = policy.judge_vulnerabilities(skipped, [], TODAY)
    assert (part.status, part.remarks) == (
        "NOT MEASURED",
        ["1 distributions were not audited, the first for this: not found"],
    )
    assert policy.judge_vulnerabilities(report(name="other", skip_reason="not found"), [], TODAY).status == "FAIL"


def test_a_dependency_comes_from_an_index(policy: ModuleType, tmp_path: Path) -> None:
    made = distribution(tmp_path)
    assert policy.direct_url(made) == ""
    (tmp_path / "thing-1.0.dist-info" / "direct_url.json").write_text(
        json.dumps({"url": "https://a.example/x.git"}), encoding="utf-8"
    )
    rules = {"allowed": ["tritium"]}
    assert policy.judge_sources({"thing": policy.direct_url(made)}, [], rules).status == "FAIL"
    assert policy.judge_sources({"tritium": "file:///x", "thing": ""}, ["thing>=1"], rules).status == "PASS"
    assert policy.judge_sources({}, ["thing @ https://a.example/x.git"], rules).status == "FAIL"
