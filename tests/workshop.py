"""Native modules with a changed unit: its object is compiled again and linked with those of the build tree."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "native"
NO_SELF_TEST = ("registry.cpp", "isa.status = self_test(isa.kernels, baseline);", 'isa.status = "ok";')


def segment(command: str, option: str) -> list[str]:
    """The words of the one command of a shell line that has the option."""
    return next(words for part in command.split("&&") if option in (words := shlex.split(part)))


def redirect(words: list[str], output: Path) -> list[str]:
    """The same command with another output."""
    at = words.index("-o")
    return [*words[: at + 1], str(output), *words[at + 2 :]]


def run(words: list[str | Path]) -> str:
    done = subprocess.run(words, cwd=BUILD, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


class Workshop:
    """A folder with a copy of csrc/, from which changed native modules are made."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sources = folder, folder / "csrc"
        shutil.copytree(ROOT / "csrc", self.sources)
        listed = json.loads((BUILD / "compile_commands.json").read_text())
        self.commands = {Path(entry["file"]).relative_to(ROOT).as_posix(): entry["command"] for entry in listed
                         if entry["file"].startswith(str(ROOT / "csrc"))}  # fmt: skip
        self.link = segment(run(["ninja", "-t", "commands", "_native"]).splitlines()[-1], "-shared")

    @cached_property
    def permissive(self) -> Path:
        """The registry without the self-test of the start."""
        return self.compile(*NO_SELF_TEST, unit="registry.cpp")

    def compile(self, file: str, old: str, new: str, *, unit: str) -> Path:
        """The object of a unit of csrc/ with one replacement in a file that it consists of."""
        path = self.sources / file
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, (
            f"{file}: expected {old!r} once, got {text.count(old)}: what replaces it needs a new text"
        )
        path.write_text(text.replace(old, new), encoding="utf-8")
        try:
            command = self.commands[f"csrc/{unit}"].replace(str(ROOT / "csrc"), str(self.sources))
            built = self.folder / f"{Path(unit).name}.o"
            run(redirect(shlex.split(command), built))
        finally:
            path.write_text(text, encoding="utf-8")
        return built

    def compile_beside(self, source: Path) -> Path:
        """The object of a source that is none of csrc/."""
        words = shlex.split(self.commands["csrc/isa.cpp"].replace(str(ROOT / "csrc" / "isa.cpp"), str(source)))
        built = self.folder / f"{source.name}.o"
        run(redirect(words, built))
        return built

    def assemble(self, unit: str, old: str, new: str, *options: str) -> Path:
        """The object of a unit of csrc/, every ``old`` of its assembly replaced; ``options`` are the assembler's."""
        command = [word for word in shlex.split(self.commands[f"csrc/{unit}"]) if word != "-c"]
        assembly, built = self.folder / f"{Path(unit).name}.s", self.folder / f"{Path(unit).name}.o"
        run([*redirect(command, assembly), "-S"])
        text = assembly.read_text(encoding="utf-8")
        assert old in text
        assembly.write_text(text.replace(old, new), encoding="utf-8")
        run([*command[: command.index("-o")], *options, "-o", str(built), "-c", str(assembly)])
        return built

    def link_with(self, name: str, *objects: Path, options: Sequence[str] = ()) -> Path:
        """A module in which these objects take the place of those of the same name, or stand beside the others."""
        module = self.folder / name / "_native.so"
        module.parent.mkdir(exist_ok=True)
        replaced = {path.name for path in objects}
        words = [word for word in redirect(self.link, module) if Path(word).name not in replaced]
        at = words.index(str(module)) + 1
        run([*words[:at], *options, *objects, *words[at:]])
        return module


def open_workshop(folder: Path) -> Workshop:
    """A workshop in an empty folder; skips where there is no build tree."""
    if not (BUILD / "compile_commands.json").is_file():
        pytest.skip("no build tree in build/native: other modules are made from its objects")
    return Workshop(folder)
