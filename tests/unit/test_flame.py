"""Flame graphs as data and as pictures: what adds up, what is refused, what an XML reader and other tools can read."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tritium.bench import flame_report, flame_svg, speedscope
from tritium.bench.flame import Frame, Stack, collapsed, parse_collapsed, stacks_of, tree
from tritium.bench.flame_diff import compare, lines, picture
from tritium.bench.samplers import check, kind_of, parse_perf_script
from tritium.bench.timing import PHASES, follow, phases_ns, timing
from tritium.engine.model import load
from tritium.errors import FormatError, ShapeError, UnsupportedError

STACKS = [
    Stack(("run", "decode", "linear", "layer 0"), 600, "linear", calls=1, macs=1200, bytes=300),
    Stack(("run", "decode", "linear", "layer 1"), 200, "linear", calls=1, macs=1200, bytes=300),
    Stack(("run", "decode", "<norm> & more"), 150, "norm"),
    Stack(("run", "sample"), 50, "sample"),
]
AROUND = flame_svg.Picture("A <title>", ["one & two"], "below")
SVG = "{http://www.w3.org/2000/svg}"


def test_frames_hold_what_is_above_them() -> None:
    root = tree(STACKS, "run")
    assert (root.ns, root.own_ns, root.kind, root.depth) == (1000, 0, "frame", 4)
    decode = root.children["decode"]
    assert (decode.ns, decode.kind, decode.calls) == (950, "frame", 2)
    assert (decode.children["linear"].kind, decode.children["linear"].macs) == ("linear", 2400)
    assert decode.children["linear"].children["layer 1"].own_ns == 200


def test_collapsed_stacks_come_back() -> None:
    text = collapsed([*STACKS, STACKS[0]])
    assert text.splitlines()[0] == "run;decode;linear;layer 0 1200"
    again = parse_collapsed(text, "here")
    assert [(s.names, s.ns) for s in again[1:]] == [(s.names, s.ns) for s in STACKS[1:]]


@pytest.mark.parametrize("text", ["", "\n", "a;b", "a;b 1.5", "a;b -1", "12", "a ٣"])
def test_what_is_no_stack_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="collapsed stacks: here"):
        parse_collapsed(text, "here")


def test_the_picture_is_xml_whose_frames_cover_their_parents() -> None:
    root = tree(STACKS, "run")
    svg = ET.fromstring(flame_svg.draw(root, AROUND, flame_svg.by_kind(root), flame_svg.kinds_in(root)))
    frames = {g.attrib["data-n"]: g for g in svg.iter(f"{SVG}g") if g.get("class") == "f"}
    assert set(frames) == {"run", "decode", "linear", "layer 0", "layer 1", "<norm> & more", "sample"}
    assert float(frames["linear"].attrib["data-w"]) == pytest.approx(0.8)
    assert float(frames["sample"].attrib["data-x"]) == pytest.approx(0.95)
    assert frames["linear"].attrib["data-d"].splitlines() == [
        "800 ns · 80.00 % of all · 84.2 % of decode", "2 calls · 0.75 GB/s · 3 GMAC/s",
    ]  # fmt: skip
    style, script = svg.find(f"{SVG}style"), svg.find(f"{SVG}script")
    assert style is not None
    assert "prefers-color-scheme: dark" in str(style.text)
    assert script is not None
    assert "http" not in str(script.text)


def test_narrow_names_are_cut_or_left_out() -> None:
    assert flame_svg.fit("attention", 200) == "attention"
    assert flame_svg.fit("attention", 60) == "attent…"
    assert flame_svg.fit("attention", 30) == ""


def test_a_difference_is_red_where_it_grew_and_blue_where_it_shrank() -> None:
    after = [Stack(s.names, {600: 900, 150: 50}.get(s.ns, s.ns)) for s in STACKS]
    root, rows = compare(STACKS, after)
    changes = {row.names[-1]: row.change_ns for row in rows}
    assert changes["layer 0"] == changes["linear"] == 300
    assert (changes["decode"], changes["<norm> & more"], changes["sample"]) == (200, -100, 0)
    svg = ET.fromstring(picture(root, rows, AROUND))
    looks = {}
    for g in svg.iter(f"{SVG}g"):
        rect = g.find(f"{SVG}rect")
        if g.get("class") == "f" and rect is not None:
            looks[g.attrib["data-n"]] = rect.attrib["class"]
    assert (looks["linear"], looks["<norm> & more"], looks["sample"]) == ("more", "less", "same")
    assert [line.split()[0] for line in lines(rows, 2)] == ["+300", "+200"]


def test_a_scaled_difference_compares_shares() -> None:
    doubled = [Stack(s.names, 2 * s.ns) for s in STACKS]
    assert {row.change_ns for row in compare(STACKS, doubled, normalize=True)[1]} == {0}
    with pytest.raises(ShapeError, match="nothing to compare"):
        compare(STACKS, [])


def test_graphs_of_different_roots_are_compared_above_one() -> None:
    root, rows = compare([Stack(("a",), 5)], [Stack(("b", "c"), 7)])
    assert (root.name, list(root.children)) == ("all", ["b"])
    assert "only in the first: 5 ns" in picture(root, rows, AROUND)


def test_speedscope_has_every_frame_opened_and_closed() -> None:
    document = json.loads(json.dumps(speedscope.document("run", STACKS, [STACKS, STACKS])))
    sampled, evented = document["profiles"]
    assert sampled["endValue"] == sum(sampled["weights"]) == 1000
    assert evented["endValue"] == 2000
    names = [frame["name"] for frame in document["shared"]["frames"]]
    opened: list[int] = []
    at = 0
    for event in evented["events"]:
        assert event["at"] >= at
        at = event["at"]
        if event["type"] == "O":
            opened.append(event["frame"])
        else:
            assert opened.pop() == event["frame"]
    assert not opened
    assert names[sampled["samples"][0][-1]] == "layer 0"


def test_the_embedded_model_adds_up() -> None:
    with load("demo", threads=1, prefix_cache=False) as model:
        prompt = model.tokenize("2+2=")
        passes = follow(model, prompt, 2)
        assert len(passes.decode) == 2
        assert [done.n_tokens for done in passes.prefill] == [len(prompt)]
        stacks = stacks_of(passes.decode, model.plan, "decode", "run")
        assert sum(s.ns for s in stacks) == sum(done.step_ns + done.rest_ns for done in passes.decode)
        by_phase = [phases_ns(done, model.plan) for done in passes.decode]
        root = tree(stacks, "run").children["decode"]
        for phase in PHASES:
            assert root.children[phase].ns == sum(row[phase] for row in by_phase)
        assert len(kernels(root)) >= 5
        hottest = flame_report.hotspots(stacks)
        assert sum(row.ns for row in hottest) == root.ns
        assert {row.phase for row in hottest} == {"decode"}
        measured = timing(model, prompt, tokens=2, iterations=3)
        assert len(measured.lines) == 9
        assert measured.total_us == pytest.approx(sum(measured.us.values()))
        assert sum(measured.percent.values()) == pytest.approx(100)
        assert measured.tokens_per_second_total == pytest.approx(1e6 / measured.total_us)
        assert measured.us["forward"] == measured.spread["forward"].median
        with pytest.raises(ShapeError, match="iterations"):
            timing(model, prompt, tokens=1, iterations=2)
        with pytest.raises(ShapeError, match="tokens to decode"):
            follow(model, prompt, model.max_context)
        assert model.engine.watch is None


def kernels(frame: Frame) -> set[str]:
    below = {name for child in frame.children.values() for name in kernels(child)}
    return below | ({frame.name} if any(name.startswith("layer ") for name in frame.children) else set())


PERF = """tritium
    7f01 tritium::(anonymous namespace)::i2s_gemv_avx512vnni+0x10 (/lib/_native.so)
    7f02 tritium::Executor::execute+0x3 (/lib/_native.so)

tritium
    7f01 [unknown] (/lib/_native.so)
    7f02 tritium::Executor::execute+0x9 (/lib/_native.so)

tritium
    7f01 tritium::(anonymous namespace)::i2s_gemv_avx512vnni+0x44 (/lib/_native.so)
    7f02 tritium::Executor::execute+0x3 (/lib/_native.so)
"""


def test_samples_of_perf_become_stacks() -> None:
    stacks = parse_perf_script(PERF)
    assert {s.names: (s.ns, s.kind) for s in stacks} == {
        ("tritium", "Executor::execute", "i2s_gemv_avx512vnni"): (2, "linear"),
        ("tritium", "Executor::execute", "[_native.so]"): (1, "between"),
    }
    assert kind_of(("main", "_PyEval_EvalFrameDefault")) == "sample"


def test_what_a_sampler_lacks_is_said_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check("builtin").works
    with pytest.raises(UnsupportedError, match="unknown tool"):
        check("samply")
    assert "DTrace" in check("perf", platform="darwin").why
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check("perf").fix == "sudo apt-get install linux-perf"
    assert check("py-spy").fix == "pip install py-spy"
    for name, script in (("perf", "#!/bin/sh\necho no permission\nexit 1\n"), ("py-spy", "#!/bin/sh\n")):
        (tmp_path / name).write_text(script, encoding="ascii")
        (tmp_path / name).chmod(0o755)
    level = tmp_path / "level"
    level.write_text("3\n", encoding="ascii")
    refused = check("perf", paranoid=level)
    assert not refused.works
    assert refused.why == "perf_event_paranoid is 3; a trial failed: no permission"
    assert refused.fix == f"echo 1 | sudo tee {level}"
    assert check("py-spy", ptrace=tmp_path / "absent").works
    assert check("py-spy", ptrace=level).fix == f"echo 1 | sudo tee {level}"
