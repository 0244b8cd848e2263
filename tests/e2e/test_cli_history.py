"""Baselines, comparisons and history from the command line; the page in a browser."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from command_line import PROGRAM, tritium
from receipt_history import START, commit_of, retold, write, write_history

ROOT = Path(__file__).resolve().parents[2]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Receipts of two machines, one of which became slower."""
    folder = tmp_path_factory.mktemp("scene")
    write_history(folder / "receipts" / "one", [1.0] * 8 + [1.09] * 7)
    write_history(folder / "receipts" / "other", [0.8], cpu="Another CPU & Sons")
    forged = retold(1.0, START, commit_of(0))
    forged["tokens_per_second"] *= 2
    write(forged, folder / "receipts" / "forged.json")
    return folder


def run(scene: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return tritium(*arguments, TRITIUM_CACHE=str(scene / "cache"))


def test_add_list_promote_compare(scene: Path, tmp_path: Path) -> None:
    folder, release = tmp_path / "baselines", tmp_path / "ci" / "baseline.json"
    where = ("--directory", folder, "--release", release)
    sessions = scene / "receipts" / "one"
    first = [sessions / f"000-0{i}.json" for i in range(5)]
    later = [sessions / f"012-0{i}.json" for i in range(5)]

    assert run(scene, "baseline", "compare", *first, *where).returncode == 8
    added = run(scene, "baseline", "add", *first, "--directory", folder, "--json")
    assert added.returncode == 0, added.stderr
    (document,) = json.loads(added.stdout)
    assert document["parity"]["replay"] == {
        "status": "PASS", "backend": "cpu", "n_tokens": 48, "equal": ["logits", "tokens"],
    }  # fmt: skip
    listed = run(scene, "baseline", "list", "--directory", folder, "--commit", commit_of(0)[:7])
    assert "5 receipts" in listed.stdout
    promoted = run(scene, "baseline", "promote", document["path"], "--release", release)
    assert (promoted.returncode, promoted.stdout.splitlines()[0]) == (0, "PASS")

    same = run(scene, "baseline", "compare", *first, *where)
    assert (same.returncode, same.stdout.splitlines()[0]) == (0, "PASS"), same.stderr
    doubtful = run(scene, "baseline", "compare", *later, *where)
    assert (doubtful.returncode, doubtful.stdout.splitlines()[0]) == (8, "INCONCLUSIVE")
    classic = run(scene, "baseline", "compare", *later, *where, "--policy", "classic", "--json")
    assert (classic.returncode, json.loads(classic.stdout)["verdict"]) == (6, "FAIL")
    envelope = run(scene, "baseline", "compare", first[0], *where, "--policy", "envelope")
    assert (envelope.returncode, envelope.stdout.splitlines()[0]) == (0, "ATTENTION")
    forged = run(scene, "baseline", "compare", scene / "receipts" / "forged.json", *where)
    assert (forged.returncode, forged.stdout.splitlines()[0]) == (6, "FAIL")


def test_add_refuses(scene: Path, tmp_path: Path) -> None:
    few = run(scene, "baseline", "add", scene / "receipts" / "one" / "000-00.json", "--directory", tmp_path)
    assert few.returncode == 1
    assert "too few receipts" in few.stderr
    assert not list(tmp_path.iterdir())
    assert run(scene, "baseline", "add", tmp_path / "nothing.json").returncode == 3


def test_compare_two_builds_for_real(scene: Path, tmp_path: Path) -> None:
    """This installation against itself, by its interpreter: one round runs, and is too little for a verdict."""
    report = tmp_path / "report.json"
    compared = run(
        scene, "compare", "--base", sys.executable, "--pairs", "1", "--tokens", "8", "--repeats", "2", "--report", report,
        "--keep", tmp_path / "kept",
    )  # fmt: skip
    assert compared.returncode == 8, compared.stderr
    assert "1 pairs, 10 are the least" in compared.stdout
    assert "exact gates pass" in compared.stdout
    document = json.loads(report.read_text(encoding="utf-8"))
    assert (document["verdict"], document["policy"], document["metric"]) == ("INCONCLUSIVE", "pairs", "decode")
    kept = [tmp_path / "kept" / arm for arm in ("before", "after", "control")]
    assert [path.name for path in (tmp_path / "kept").rglob("*.json")] == ["001.json"] * 3
    again = run(scene, "compare", *kept[:2], "--control", kept[2])
    assert (again.returncode, again.stdout) == (8, compared.stdout)


@pytest.mark.nightly
def test_compare_a_revision_that_is_built_for_it(scene: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    compared = subprocess.run(
        [*PROGRAM, "compare", "--base", "HEAD", "--pairs", "1", "--tokens", "8", "--repeats", "2", "--json"],
        cwd=ROOT, capture_output=True, encoding="utf-8", timeout=1800, check=False,
    )  # fmt: skip
    assert compared.returncode == 8, compared.stderr
    assert json.loads(compared.stdout)["builds"]["before"].startswith("HEAD (")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either"),
        (("a",), "expected BEFORE and AFTER"),
        (("--base", "HEAD", "a", "b"), "give either"),
        (("a", "b", "--keep", "c"), "need --base"),
        (("--base", "HEAD", "--control", "c"), "measures its own"),
    ],
)
def test_compare_usage(scene: Path, arguments: tuple[str, ...], message: str) -> None:
    wrong = run(scene, "compare", *arguments)
    assert wrong.returncode == 2
    assert message in wrong.stderr


def test_list_and_trend(scene: Path) -> None:
    listed = run(scene, "history", "list", scene / "receipts", "--since", "2026-01-15", "--json")
    rows = json.loads(listed.stdout)
    assert len(rows) == 25
    assert {row["verdict"] for row in rows} == {"accepted"}
    assert "files read" in listed.stderr
    everything = run(scene, "history", "list", scene / "receipts", "--all")
    assert "files read" not in everything.stderr
    assert "rejected by decode_rate" in everything.stdout
    trend = run(scene, "history", "trend", scene / "receipts", "--machine", "EPYC")
    assert re.search(rf"-\d\.\d% at {commit_of(8)[:8]}: ", trend.stdout), trend.stdout
    document = json.loads(run(scene, "history", "trend", scene / "receipts", "--json").stdout)
    assert [len(t["changes"]) for t in document] == [1, 0]
    assert run(scene, "history", "list", scene / "nowhere").returncode == 2


@pytest.fixture(scope="module")
def page(scene: Path) -> Path:
    """The report."""
    pytest.importorskip("matplotlib", reason="the extra 'report' is not installed")
    path = scene / "report.html"
    written = run(scene, "history", "report", scene / "receipts", "-o", path)
    assert written.returncode == 0, written.stderr
    return path


def test_the_page_holds_everything(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg ") == 5, "two trends, two rooflines, one comparison"
    assert "Another CPU &amp; Sons" in text
    assert commit_of(8)[:8] in text
    assert "rejected by decode_rate" in text
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", re.sub(r'xlink:href="#', '"', text))
    assert not re.search(r"@import|<script|#0[1-8]0[1-8]0[1-8]", text)


def browse(page: Path, folder: Path, *options: str) -> tuple[Path, str]:
    """A picture of a page, and what the browser's console said."""
    assert BROWSER is not None
    picture = folder / "page.png"
    done = subprocess.run(
        [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
         f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--window-size=1000,1400", "--hide-scrollbars",
         f"--screenshot={picture}", *options, page.as_uri()],
        capture_output=True, encoding="utf-8", timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return picture, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize(("scheme", "number"), [("dark", 0), ("light", 1)])
def test_the_page_in_a_browser(page: Path, tmp_path: Path, scheme: str, number: int) -> None:
    """It is drawn in both schemes, asks for nothing and complains about nothing."""
    picture, console = browse(page, tmp_path, f"--blink-settings=preferredColorScheme={number}")
    assert not console
    assert picture.stat().st_size > 20_000
    assert _corner(picture) < 60 if scheme == "dark" else _corner(picture) > 200


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_request_of_the_page_would_be_seen(page: Path, tmp_path: Path) -> None:
    """The page forbids itself all requests: one is refused, and the console tells."""
    text = page.read_text(encoding="utf-8")
    changed = tmp_path / "changed.html"
    changed.write_text(text.replace("</main>", '<img src="http://127.0.0.1:9/a.png"></main>'), encoding="utf-8")
    _, console = browse(changed, tmp_path)
    assert "http://127.0.0.1:9/a.png" in console
    assert "Content Security Policy" in console


def _corner(picture: Path) -> int:
    """The red value of the first pixel, from the PNG's first row."""
    data = picture.read_bytes()
    place, packed = 8, b""
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        if data[place + 4 : place + 8] == b"IDAT":
            packed += data[place + 8 : place + 8 + length]
        place += 12 + length
    return zlib.decompress(packed)[1]
