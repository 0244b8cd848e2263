"""The commands timing and flamegraph, and the scripts around them, on the embedded model."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from command_line import tritium

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(
    r"timing: embed_us=([\d.]+) forward_us=([\d.]+) logits_us=([\d.]+) sample_us=([\d.]+) total_us=([\d.]+) tokens=(\d+)"
)


def test_a_timing_receipt_says_what_where_and_how_long(tmp_path: Path) -> None:
    result = tritium("timing", "-m", "demo", "--tokens", "2", "--output-dir", tmp_path / "perf")
    assert result.returncode == 0, result.stderr
    path = tmp_path / "perf" / "phase2_timing_i2s.md"
    text = path.read_text(encoding="utf-8")
    document = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert (document["iterations"], document["tokens"], document["n_threads"], document["model"]) == (3, 2, 1, "demo")
    matches = [LINE.fullmatch(line) for line in document["lines"]]
    assert len(matches) == 9
    for match in matches:
        assert match is not None
        *parts, total, _ = map(float, match.groups())
        assert sum(parts) == pytest.approx(total, abs=0.3)
    for line in document["lines"]:
        assert line in text
        assert line in result.stdout
    for word in ("% of total", "| CPU |", "| caches |", "| kernel |", "| Python |", "| compiler |", "| compiler flags |",
                 "| commit |", "`2+2=`", "tokens a second = 10⁶ / total", document["model_sha256"]):  # fmt: skip
        assert word in text
    # The median of three iterations, each the mean of its two decoded tokens.
    forward = [float(match[2]) for match in matches if match is not None and match[6] == "1"]
    means = sorted((a + b) / 2 for a, b in zip(forward[::2], forward[1::2], strict=True))
    assert document["us"]["forward"] == pytest.approx(means[1], abs=0.2)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("--iterations", "2"), 2), (("-m", "auto"), 3), (("--tokens", "100000"), 2), (("--backend", "null"), 4)],
)
def test_what_cannot_be_timed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    result = tritium("timing", *arguments)
    assert (result.returncode, result.stdout) == (code, "")
    assert not list(tmp_path.iterdir())


def test_every_generating_command_tells_its_steps() -> None:
    run = tritium("run", "a", "-n", "3", "-q", BITNET_TRACE_TIMING="1")
    assert run.returncode == 0
    assert len(LINE.findall(run.stderr)) == 3
    assert "timing:" not in tritium("run", "a", "-n", "3", BITNET_TRACE_TIMING="0").stderr


def test_the_first_model_is_found_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tritium.cli._measuring import PUBLISHED, choose_model, discover_model

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BITNET_GGUF", raising=False)
    with pytest.raises(FileNotFoundError, match="BITNET_GGUF"):
        discover_model(tmp_path)
    for place in ("z.gguf", "models/deep/m.gguf", str(PUBLISHED / "b.gguf")):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert discover_model(tmp_path) == path
    options = {"model": "auto"}
    choose_model(options)
    assert options["model"] == str(PUBLISHED / "b.gguf")
    monkeypatch.setenv("BITNET_GGUF", "mine.gguf")
    options = {"model": "auto"}
    choose_model(options)
    assert options["model"] == "mine.gguf"


def test_flame_graphs_of_one_and_ten_tokens(tmp_path: Path) -> None:
    result = tritium("flamegraph", "--output-dir", tmp_path, "--iterations", "1", "--json")
    assert result.returncode == 0, result.stderr
    graphs = json.loads(result.stdout)["graphs"]
    assert [(graph["tokens"], graph["n_threads"]) for graph in graphs] == [(1, 1), (10, 1)]
    pictures = tmp_path / "flamegraphs"
    names = [f"phase2_{n}tok.{suffix}" for n in (1, 10) for suffix in ("svg", "md", "collapsed", "speedscope.json")]
    assert sorted(path.name for path in pictures.iterdir()) == sorted([*names, "README.md"])
    for graph in graphs:
        stacks = (pictures / f"{graph['name']}.collapsed").read_text(encoding="utf-8")
        assert sum(int(line.rpartition(" ")[2]) for line in stacks.splitlines()) == graph["total_ns"]
        text = (pictures / f"{graph['name']}.md").read_text(encoding="utf-8")
        assert f"| picture | {(pictures / graph['name']).with_suffix('.svg').stat().st_size} bytes |" in text
        for word in ("| commit |", "seed 42", "Hotspots", "| compiler |", graph["model_sha256"]):
            assert word in text
    guide = (tmp_path / "FLAMEGRAPH_README.md").read_text(encoding="utf-8")
    for word in ("Width is time", "Height is depth", "perf_event_paranoid", "flamegraph diff"):
        assert word in guide
    assert "compiler" in (tmp_path / "BUILD_SUMMARY.md").read_text(encoding="utf-8")

    one, ten = (pictures / f"phase2_{n}tok.collapsed" for n in (1, 10))
    diff = tritium("flamegraph", "diff", one, ten, "-o", tmp_path / "diff.svg", "--json")
    assert diff.returncode == 0, diff.stderr
    document = json.loads(diff.stdout)
    assert (document["before"], document["after"]) == tuple(graph["total_ns"] for graph in graphs)
    assert "<svg" in (tmp_path / "diff.svg").read_text(encoding="utf-8")


def test_a_tool_that_is_not_there_leaves_the_built_in_graph(tmp_path: Path) -> None:
    where = ("--output-dir", str(tmp_path), "--tokens", "1", "--iterations", "1")
    result = tritium("flamegraph", *where, PATH=str(tmp_path), BITNET_FLAMEGRAPH_TOOL="perf")
    assert result.returncode == 0, result.stderr
    assert (
        "perf cannot be used: perf is not installed. To change that: sudo apt-get install linux-perf" in result.stderr
    )
    assert (tmp_path / "flamegraphs" / "phase2_1tok.svg").is_file()
    assert tritium("flamegraph", *where, "--tool", "samply").returncode == 4
    assert tritium("flamegraph", "diff", tmp_path / "absent", tmp_path / "absent").returncode == 3
    assert tritium("flamegraph", "model.gguf").returncode == 2


def test_the_scripts_run_their_commands(tmp_path: Path) -> None:
    if not (ROOT / ".venv" / "bin" / "tritium").is_file():
        pytest.skip("no .venv: the scripts run what make build made")
    environment = {**os.environ, "BITNET_SKIP_BUILD": "1"}
    for script, made in (
        ("perf_phase2_timing.sh", "phase2_timing_i2s.md"),
        ("phase2_flamegraph.sh", "BUILD_SUMMARY.md"),
    ):
        command = [ROOT / "scripts" / script, "demo", "--output-dir", tmp_path]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
        assert (tmp_path / made).is_file()
    missing = subprocess.run(
        [ROOT / "scripts" / "perf_phase2_timing.sh", "absent.gguf"], env=environment, capture_output=True, check=False
    )
    assert missing.returncode == 3
