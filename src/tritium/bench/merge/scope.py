"""What a change touches: files by category, and the parts of the computation that they make, from git's own figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tritium.bench.merge.children import run_child
from tritium.bench.merge.rules import Group, Rules
from tritium.errors import UnsupportedError


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """Lines that a change adds to and removes from a file; a binary file counts none."""

    path: str
    added: int
    removed: int
    category: str


@dataclass(frozen=True, slots=True)
class Total:
    """Files and lines of a category, and its share of all changed lines in whole percent."""

    n_files: int
    added: int
    removed: int
    percent: int


@dataclass(frozen=True, slots=True)
class Scope:
    """A change between two commits. The percents of ``categories``, and of ``groups``, add up to 100 unless no line changed."""

    base: str
    head: str
    files: tuple[ChangedFile, ...]
    categories: Mapping[str, Total]
    groups: Mapping[str, Total]
    subsystems: Mapping[str, tuple[str, ...]]

    @property
    def touches_computation(self) -> bool:
        """Whether a file that makes part of the computation changed."""
        return any(self.subsystems.values())


def read_scope(root: Path, base: str, rules: Rules) -> Scope:
    """The change from where ``base`` and HEAD part to HEAD. Errors: UnsupportedError where git cannot tell.

    A branch that is only known as the remote's, as in the checkout of a pull request, is taken from ``origin``.
    """
    head = git(root, "rev-parse", "HEAD")
    is_here = (
        run_child(["git", "-C", str(root), "rev-parse", "--verify", "--quiet", f"{base}^{{commit}}"]).exit_code == 0
    )
    fork = git(root, "merge-base", base if is_here else f"origin/{base}", "HEAD")
    # NUL-terminated, so that no name of a file can pretend to be another row.
    rows = git(root, "diff", "--numstat", "-z", "--no-renames", fork, head).split("\0")
    group_of = {c.name: c.group for c in rules.categories}
    files = [_changed(row, rules.categories) for row in rows if row.strip()]
    return Scope(
        fork,
        head,
        tuple(files),
        totals(files, [c.name for c in rules.categories], lambda file: file.category),
        totals(files, list(dict.fromkeys(group_of.values())), lambda file: group_of[file.category]),
        {s.name: tuple(f.path for f in files if s.holds(f.path)) for s in rules.subsystems},
    )


def commit(root: Path) -> str | None:
    """The commit of a source tree, None outside of one."""
    try:
        return git(root, "rev-parse", "HEAD")
    except UnsupportedError:
        return None


def git(root: Path, *arguments: str) -> str:
    """Standard output of git. Errors: UnsupportedError with what git says."""
    done = run_child(["git", "-C", str(root), *arguments])
    if done.exit_code:
        raise UnsupportedError(f"git {arguments[0]} failed", where=str(root), got=done.last_line)
    return done.out.rstrip("\n")


def _changed(row: str, categories: Sequence[Group]) -> ChangedFile:
    added, removed, path = row.strip("\n").split("\t", 2)
    category = next(c.name for c in categories if c.holds(path))
    return ChangedFile(path, _count(added), _count(removed), category)


def _count(text: str) -> int:
    return 0 if text == "-" else int(text)


def totals(
    files: Iterable[ChangedFile], names: Sequence[str], name_of: Callable[[ChangedFile], str]
) -> dict[str, Total]:
    """Files and lines by name, in the order of ``names``; largest remainders make the percents add up to 100."""
    rows = {name: [0, 0, 0] for name in names}
    for file in files:
        row = rows[name_of(file)]
        for i, count in enumerate((1, file.added, file.removed)):
            row[i] += count
    lines = [added + removed for _, added, removed in rows.values()]
    percents = _percents(lines)
    pairs = zip(rows.items(), percents, strict=True)
    return {name: Total(row[0], row[1], row[2], percent) for (name, row), percent in pairs}


def _percents(counts: Sequence[int]) -> list[int]:
    whole = sum(counts)
    if not whole:
        return [0] * len(counts)
    parts = [divmod(100 * count, whole) for count in counts]
    short = 100 - sum(quotient for quotient, _ in parts)
    largest = sorted(range(len(parts)), key=lambda i: -parts[i][1])[:short]
    return [quotient + (i in largest) for i, (quotient, _) in enumerate(parts)]
