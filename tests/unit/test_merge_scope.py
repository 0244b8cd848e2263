"""What a change touches, the rules that sort it, and the ledger that keeps it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tritium.bench.merge import ledger
from tritium.bench.merge.rules import SHIPPED, Group, read_rules
from tritium.bench.merge.scope import ChangedFile, commit, read_scope, totals
from tritium.errors import FormatError, UnsupportedError


@pytest.fixture
def repository_of_a_change(tmp_path: Path) -> Path:
    """A repository whose branch adds a page, a test, a picture and a kernel to main."""

    def git(*arguments: str) -> None:
        who = [
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@a.example",
            "-c",
            "init.defaultBranch=main",
            "-c",
            "commit.gpgsign=false",
        ]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    def write(name: str, n_lines: int) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("line\n" * n_lines, encoding="utf-8")

    git("init", "-q")
    write("README.md", 10)
    git("add", "-A")
    git("commit", "-qm", "one")
    git("checkout", "-qb", "change")
    write("README.md", 4)
    write("docs/a\tb.md", 3)
    write("tests/unit/test_x.py", 5)
    write("tests/data/x.json", 1)
    write("csrc/isa/avx2.cpp", 2)
    write("docs/baselines/2026-01-31/a.json", 1)
    write("ci/receipts/pr-1/LEDGER.md", 1)
    (tmp_path / "picture.png").write_bytes(bytes(range(256)))
    git("add", "-A")
    git("commit", "-qm", "two")
    return tmp_path


def test_every_changed_file_has_one_category_and_shares_add_up(repository_of_a_change: Path) -> None:
    scope = read_scope(repository_of_a_change, "main", read_rules())
    found = {file.path: (file.category, file.added, file.removed) for file in scope.files}
    assert found == {
        "README.md": ("documentation", 0, 6),
        "docs/a\tb.md": ("documentation", 3, 0),
        "tests/unit/test_x.py": ("test utilities", 5, 0),
        "tests/data/x.json": ("fixtures", 1, 0),
        "csrc/isa/avx2.cpp": ("production", 2, 0),
        "docs/baselines/2026-01-31/a.json": ("baselines", 1, 0),
        "ci/receipts/pr-1/LEDGER.md": ("receipts and ledger", 1, 0),
        "picture.png": ("production", 0, 0),
    }
    assert sum(t.percent for t in scope.categories.values()) == 100
    assert sum(t.percent for t in scope.groups.values()) == 100
    assert sum(t.n_files for t in scope.categories.values()) == len(scope.files)
    assert scope.subsystems["CPU SIMD"] == ("csrc/isa/avx2.cpp",)
    assert scope.subsystems["GPU mixed precision"] == ()
    assert scope.touches_computation


def test_no_change_has_no_share_and_no_base_is_an_error(repository_of_a_change: Path) -> None:
    scope = read_scope(repository_of_a_change, "HEAD", read_rules())
    assert not scope.files
    assert {t.percent for t in scope.categories.values()} == {0}
    with pytest.raises(UnsupportedError, match="git"):
        read_scope(repository_of_a_change, "nowhere", read_rules())


def test_a_branch_of_the_remote_is_a_base_too(
    repository_of_a_change: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    clone = tmp_path_factory.mktemp("clone") / "of it"
    subprocess.run(["git", "clone", "-q", str(repository_of_a_change), str(clone)], check=True)
    assert read_scope(clone, "main", read_rules()) == read_scope(repository_of_a_change, "main", read_rules())
    assert commit(clone) == commit(repository_of_a_change)
    assert commit(clone.parent) is None


def test_what_is_renamed_removed_or_has_an_odd_name(repository_of_a_change: Path) -> None:
    where = repository_of_a_change
    (where / "docs").mkdir(exist_ok=True)
    (where / "docs/a\tb.md").rename(where / "docs/ä c\nd.md")
    (where / "picture.png").unlink()
    who = ["-c", "user.name=A", "-c", "user.email=a@a.example", "-c", "commit.gpgsign=false"]
    for arguments in (["add", "-A"], ["commit", "-qm", "three"]):
        subprocess.run(["git", *who, *arguments], cwd=where, check=True)
    scope = read_scope(where, "HEAD~1", read_rules())
    assert {(file.path, file.category, file.added, file.removed) for file in scope.files} == {
        ("docs/a\tb.md", "documentation", 0, 3),
        ("docs/ä c\nd.md", "documentation", 3, 0),
        ("picture.png", "production", 0, 0),
    }
    assert scope.categories["production"].n_files == 1


@pytest.mark.parametrize("lines", [[1, 1, 1], [1, 0, 0], [7, 11, 13, 17, 19, 23], [2, 1]])
def test_percents_add_up_to_100(lines: list[int]) -> None:
    files = [ChangedFile(str(i), n, 0, str(i)) for i, n in enumerate(lines)]
    rows = totals(files, [file.category for file in files], lambda file: file.category)
    assert sum(row.percent for row in rows.values()) == 100
    assert all(abs(row.percent - 100 * n / sum(lines)) < 1 for row, n in zip(rows.values(), lines, strict=True))


@pytest.mark.parametrize(
    ("pattern", "path", "holds"),
    [
        ("docs/**", "docs/a/b.md", True),
        ("docs/**", "src/docs/a.md", False),
        ("**/*.md", "a.md", True),
        ("**/*.md", "a/b/c.md", True),
        ("csrc/executor.*", "csrc/executor.cpp", True),
        ("csrc/executor.*", "csrc/driver/executor.cpp", False),
        ("tests/**/*.json", "tests/x.json", True),
    ],
)
def test_patterns(pattern: str, path: str, holds: bool) -> None:
    assert Group("g", (pattern,)).holds(path) is holds


def test_rules_route_every_word_and_are_checked(tmp_path: Path) -> None:
    rules = read_rules()
    for flow in rules.routing:
        for word in ("PASS", "ATTENTION", "FAIL", "INCONCLUSIVE"):
            assert rules.route(flow, word)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="no route"):
        rules.route("benchmarks", "PENDING")
    bad = tmp_path / "gates.toml"
    bad.write_text(SHIPPED.read_text(encoding="utf-8").replace("latency_s", "latencies"), encoding="utf-8")
    with pytest.raises(FormatError, match="latency_s"):
        read_rules(bad)
    bad.write_text("[slo]\n", encoding="utf-8")
    with pytest.raises(FormatError, match="sections"):
        read_rules(bad)
    bad.write_text("=", encoding="utf-8")
    with pytest.raises(FormatError, match="not TOML"):
        read_rules(bad)


def test_the_ledger_is_edited_between_its_markers_only_and_twice_is_once() -> None:
    text = "Somebody's words.\n\n" + ledger.TEMPLATE.format(number=7) + "\nMore words.\n"

    def edit(text: str, status: str) -> str:
        text = ledger.set_gate(text, "benchmarks", status, "a | b\nc")
        return ledger.set_decision(ledger.add_hop(text, "runner", f"gate {status}"), f"**{status}**")

    once = edit(text, "PASS")
    assert edit(once, "PASS") == once
    assert once.startswith("Somebody's words.")
    assert once.endswith("More words.\n")
    assert "| benchmarks | PASS | a \\| b c |" in once
    again = edit(once, "FAIL")
    assert again.count("| benchmarks |") == 1
    assert ledger.section(again, "hops").split("\n")[1:3] == ["1. **runner** → gate PASS", "2. **runner** → gate FAIL"]
    assert "**PASS**" not in ledger.section(again, "decision")


@pytest.mark.parametrize("broken", ["<!-- gates:start -->", "<!-- decision:end -->"])
def test_a_ledger_without_its_markers_is_refused(broken: str) -> None:
    text = ledger.TEMPLATE.format(number=1)
    for changed in (text.replace(broken, ""), text.replace(broken, broken * 2)):
        with pytest.raises(FormatError, match="markers"):
            ledger.set_decision(ledger.set_gate(changed, "benchmarks", "PASS", "x"), "y")
