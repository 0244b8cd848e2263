"""What else a page of documentation must hold: commands that exist, the standard lines of environment, links that resolve."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

STANDARD = {
    "BITNET_DETERMINISTIC": "BITNET_DETERMINISTIC=1 BITNET_SEED=42 RAYON_NUM_THREADS=1",
    "BITNET_STRICT_MODE": "BITNET_STRICT_MODE=1",
}
_SHELL = re.compile(r"^[ \t]*```(?:sh|bash|shell|console)\s*\n(?P<body>.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"^[ \t]*(```|~~~).*?^[ \t]*\1", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)|!\[[^\]]*\]\((?P<image>[^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6}\s+(?P<title>.*?)\s*#*$", re.MULTILINE)
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to correct on a page."""

    path: Path
    line: int
    message: str


def commands(text: str) -> Iterator[tuple[int, str]]:
    """The command lines of a page's blocks of shell code: the line and the text, continued lines joined, comments dropped."""
    for block in _SHELL.finditer(text):
        first = text.count("\n", 0, block.start("body")) + 1
        joined = re.sub(r"\\\n\s*", lambda m: " " + "\0" * m[0].count("\n"), block["body"])
        at = first
        for line in joined.split("\n"):
            yield at, line.replace("\0", "").removeprefix("$ ").strip()
            at += 1 + line.count("\0")


def lint(path: Path, text: str, root: Path, options: Mapping[str, frozenset[str]]) -> list[Finding]:
    """All findings of a page. ``options``: the option names of each command, by its words ("run", "log append")."""
    return [*_lint_commands(path, text, options), *_lint_links(path, text, root)]


def _lint_commands(path: Path, text: str, options: Mapping[str, frozenset[str]]) -> Iterator[Finding]:
    for line, command in commands(text):
        for name, standard in STANDARD.items():
            if f"{name}=" in command and standard not in command:
                yield Finding(path, line, f"expected the standard line {standard!r}")
        for words in _invocations(command):
            yield from (Finding(path, line, message) for message in _check_invocation(words, options))


def _invocations(command: str) -> Iterator[list[str]]:
    """The arguments of each call of the program in a line of shell."""
    try:
        words = shlex.split(command, comments=True)
    except ValueError:
        return
    call: list[str] | None = None
    for word in [*words, ";"]:
        if word in (";", "&&", "||", "|", "&"):
            if call:
                yield call
            call = None
        elif call is not None:
            call.append(word)
        elif word == "tritium" or word.endswith("/tritium"):
            call = []


def _check_invocation(words: list[str], options: Mapping[str, frozenset[str]]) -> Iterator[str]:
    name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in options), None)
    if name is None:
        if not words[0].startswith("-"):
            yield f"no command {words[0]!r}"
        return
    known = options[name]
    given = {word.partition("=")[0] for word in words if word.startswith("-") and not _is_number(word)}
    yield from (f"tritium {name} has no option {option}" for option in sorted(given) if not _is_known(option, known))
    names_model = given & {"-m", "--model"}
    if names_model and "--device" in known and "--device" not in given and "--help" not in given:
        yield f"tritium {name}: name the device, --device cpu"


def _is_number(word: str) -> bool:
    return bool(re.fullmatch(r"-\d+(?:\.\d+)?", word)) or word == "-"


def _is_known(option: str, known: frozenset[str]) -> bool:
    return option in known or (not option.startswith("--") and option[:2] in known)


def _lint_links(path: Path, text: str, root: Path) -> Iterator[Finding]:
    prose = _CODE.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)
    prose = re.sub(r"`[^`\n]*`", lambda m: " " * len(m[0]), prose)
    for match in _LINK.finditer(prose):
        target = match["target"] or match["image"]
        if _SCHEME.match(target):
            continue
        file, _, anchor = unquote(target).partition("#")
        place = (root / file.lstrip("/") if file.startswith("/") else path.parent / file) if file else path
        line = prose.count("\n", 0, match.start()) + 1
        if not place.exists():
            yield Finding(path, line, f"no file at {target}")
        elif anchor and place.suffix == ".md" and anchor not in anchors(place.read_text(encoding="utf-8")):
            yield Finding(path, line, f"no heading for {target}")


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings as GitHub forms them; a repeated one gets a number."""
    found: set[str] = set()
    for match in _HEADING.finditer(_CODE.sub("", text)):
        title = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", match["title"])
        kept = "".join(c for c in title.lower() if c in " -_" or unicodedata.category(c)[0] in "LN")
        anchor = kept.strip().replace(" ", "-")
        n = 1
        unique = anchor
        while unique in found:
            unique, n = f"{anchor}-{n}", n + 1
        found.add(unique)
    return found
