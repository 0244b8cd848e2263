"""Commands, environment lines and links of documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tritium.bench.docs_lint import anchors, commands, lint

OPTIONS = {
    "run": frozenset({"-m", "--model", "-n", "--max-tokens", "--device", "--temperature"}),
    "log": frozenset({"--help"}),
    "log append": frozenset({"--key"}),
    "inspect": frozenset({"--json"}),
}


def findings(tmp_path: Path, text: str) -> list[tuple[int, str]]:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    return [(finding.line, finding.message) for finding in lint(page, text, tmp_path, OPTIONS)]


def shell(*lines: str) -> str:
    return "\n".join(("```sh", *lines, "```", ""))


def test_continued_lines_are_one_command_and_other_blocks_are_none() -> None:
    text = "```sh\n# remark\ntritium run \\\n  -n 3\n$ next\n```\n\n```text\nno command\n```\n"
    assert [(line, command) for line, command in commands(text) if command] == [
        (2, "# remark"),
        (3, "tritium run  -n 3"),
        (5, "next"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        'tritium run -m demo "a -x b" -n 4 --device cpu',
        "tritium run --model=demo --device=cpu --temperature -1",
        ".venv/bin/tritium log append LOG --key k && tritium inspect demo | tritium inspect - # tritium nothing",
        "BITNET_DETERMINISTIC=1 BITNET_SEED=42 RAYON_NUM_THREADS=1 tritium inspect demo",
        "echo $HOME",
        "tritium --version",
        "tritium log --help",
    ],
)
def test_good_commands(tmp_path: Path, line: str) -> None:
    assert findings(tmp_path, shell(line)) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tritium run -m demo", "name the device"),
        ("tritium run -m demo --device cpu --tokens 4", "no option --tokens"),
        ("tritium log append LOG --seal", "no option --seal"),
        ("x && tritium fly", "no command 'fly'"),
        ("BITNET_DETERMINISTIC=1 tritium inspect demo", "standard line"),
        ("export BITNET_STRICT_MODE=yes", "standard line"),
    ],
)
def test_commands_to_correct(tmp_path: Path, line: str, message: str) -> None:
    found = findings(tmp_path, shell("true", line))
    assert [at for at, _ in found] == [3]
    assert message in found[0][1]


def test_links_resolve_to_files_and_headings(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One `two` three!\n\n## Again\n\n## Again\n", encoding="utf-8")
    good = "[a](other.md) [b](other.md#one-two-three) [c](#here) [d](other.md#again-1) [e](https://a.example/x) `[f](none.md)`"
    assert findings(tmp_path, f"# Here\n\n{good}\n") == []
    bad = findings(tmp_path, "# Here\n\n[a](none.md)\n[b](other.md#none)\n![c](none.svg)\n")
    assert [line for line, _ in bad] == [3, 4, 5]


def test_a_repeated_heading_gets_a_number() -> None:
    assert anchors("# A b\n## A b\n```\n# no\n```\n## Über [x](y)\n") == {"a-b", "a-b-1", "über-x"}
