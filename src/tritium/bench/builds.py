"""Builds of Tritium to compare: this installation, another interpreter's, a wheel, or a revision built in a folder of its own."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tritium.errors import UnsupportedError

_MAIN = "from tritium.cli import main; main()"
_LONGEST_BUILD_S = 1800


@dataclass(frozen=True, slots=True)
class Build:
    """``command`` is the start of a command line that runs this build's ``tritium``.

    ``package`` is the folder that it was put into, None for a build that was there before.
    """

    name: str
    command: tuple[str, ...]
    package: Path | None = None

    def copy(self, package: Path) -> Build:
        """The same from files of its own in ``package``: other pages of memory. A build that was there before is itself.

        Errors: OSError.
        """
        if self.package is None:
            return self
        shutil.copytree(self.package, package)
        return _from_package(package, self.name)


def installed() -> Build:
    """The build that is running."""
    return Build("this installation", (sys.executable, "-c", _MAIN))


def find_build(text: str, folder: Path, repository: Path) -> Build:
    """The build that ``text`` names: a wheel (``*.whl``), an interpreter (a file), or else a git revision.

    Wheels and revisions are put into ``folder``. Errors: UnsupportedError where git or the build fails.
    """
    place = Path(text)
    if place.suffix == ".whl" and place.is_file():
        return _install(str(place.resolve()), folder / "package", text)
    if place.is_file():
        return Build(text, (str(place), "-c", _MAIN))
    source = folder / "source"
    commit = _run(["git", "-C", str(repository), "rev-parse", "--verify", f"{text}^{{commit}}"], text).strip()
    with tarfile.open(fileobj=io.BytesIO(_archive(repository, commit))) as archive:
        archive.extractall(source, filter="data")
    return _install(str(source), folder / "package", f"{text} ({commit[:12]})")


def _install(what: str, target: Path, name: str) -> Build:
    """Put a package into a folder, without its dependencies: those of this interpreter serve all builds."""
    # The requirements of the build are those of this environment, so that both sides are compiled by the same tools.
    options = ("--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--target", str(target))
    _run([sys.executable, "-m", "pip", "install", "-q", *options, what], name)
    return _from_package(target, name)


def _from_package(target: Path, name: str) -> Build:
    """The build in a folder, run by this interpreter."""
    places = dict.fromkeys([str(target), sysconfig.get_path("platlib"), sysconfig.get_path("purelib")])
    # Without site, the finder of an editable installation is not there to come first.
    code = f"import sys; sys.path[:0] = {list(places)!r}; {_MAIN}"
    return Build(name, (sys.executable, "-S", "-P", "-c", code), target)


def _archive(repository: Path, commit: str) -> bytes:
    try:
        return subprocess.check_output(["git", "-C", str(repository), "archive", commit], stderr=subprocess.STDOUT)
    except subprocess.CalledProcessError as error:
        raise UnsupportedError("git archive", where=commit, got=error.output.decode(errors="replace").strip()) from None


def _run(command: Sequence[str], name: str) -> str:
    try:
        return subprocess.check_output(
            command, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", timeout=_LONGEST_BUILD_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UnsupportedError(
            "no build to compare",
            where=name,
            expected="a git revision, a wheel or an interpreter",
            got=last_words(error),
        ) from None


def last_words(error: Exception) -> str:
    """The last line that a failed process wrote, else what went wrong with it."""
    lines = str(getattr(error, "output", None) or "").strip().splitlines()
    return lines[-1] if lines else str(error)
