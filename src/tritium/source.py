"""Which source this package was built from, as git tells it; an installed package without its tree does not know."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

PARTS = ("src", "csrc", "CMakeLists.txt", "pyproject.toml")
"""What a build is made of: a change elsewhere leaves the tree clean."""
PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Source:
    """``commit`` in hexadecimal; ``is_dirty`` where a part of the build differs from it, files it does not know included.

    ``branch`` is None where none is checked out.
    """

    commit: str
    is_dirty: bool
    branch: str | None = field(default=None, compare=False)


def read_source(package: Path = PACKAGE) -> Source | None:
    """The source of ``package``, or None where it does not lie in a git tree as ``src/tritium``, or git cannot tell."""
    root = package.parents[1]
    if not (root / ".git").exists() or package != root / "src" / package.name:
        return None
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--", *PARTS)
    if commit is None or changed is None:
        return None
    return Source(commit, bool(changed), _git(root, "symbolic-ref", "--short", "-q", "HEAD"))


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, encoding="utf-8", timeout=10).strip()
    except (OSError, subprocess.SubprocessError):
        return None
