"""What a receipt says of the source."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tritium.source import Source, read_source


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A git tree with one commit."""
    folder = tmp_path / "src" / "tritium"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text("1\n")
    (tmp_path / "README.md").write_text("a\n")
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return folder


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
    return subprocess.run(
        ["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(root: Path) -> str:
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "a")
    return git(root, "rev-parse", "HEAD")


def test_clean_and_dirty(package: Path) -> None:
    root = package.parents[1]
    head = git(root, "rev-parse", "HEAD")
    assert read_source(package) == Source(head, False)
    (root / "README.md").write_text("b\n")
    assert read_source(package) == Source(head, False), "no part of the build"
    (package / "b.py").write_text("2\n")
    assert read_source(package) == Source(head, True)
    head = commit(root)
    assert read_source(package) == Source(head, False)
    (package / "a.py").write_text("3\n")
    assert read_source(package) == Source(head, True)


def test_a_package_without_a_tree_does_not_know(package: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "lib" / "python" / "tritium"
    elsewhere.mkdir(parents=True)
    assert read_source(elsewhere) is None
    assert read_source(tmp_path / "src" / "other" / "tritium") is None
