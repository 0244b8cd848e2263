"""The sanity gate: each planted defect is caught by exactly its check, and no legitimate model by any."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tiny_models import TINY, metadata, tensors
from tritium.cli import invoke
from tritium.engine.model import resolve_model
from tritium.errors import FormatError, UnsupportedError
from tritium.formats import sanity
from tritium.formats.gguf import open_gguf
from tritium.formats.gguf_writer import GGUFWriter
from tritium.formats.sanity import EVERY, NO_RULE, Report, inspect_sanity, measure
from tritium.formats.sanity_policy import BUILT_IN, MAX_POLICY_BYTES, read_policy
from tritium.layouts import LAYOUTS

Content = dict[str, tuple[tuple[int, ...], str, NDArray[np.uint8]]]
Fault = Callable[[Content], None]

BITNET, LLAMA = "relu2_mha_tied", "llama_mha_untied_q6_k"
GAMMA, OUTPUT_NORM = "blk.1.attn_norm.weight", "output_norm.weight"
Q, DOWN, GATE = "blk.1.attn_q.weight", "blk.0.ffn_down.weight", "blk.1.ffn_gate.weight"


def write(path: Path, name: str = BITNET, fault: Fault | None = None, architecture: str | None = None) -> Path:
    """The tiny model ``name``, with what ``fault`` does to its tensors, perhaps under another architecture's name."""
    config = TINY[name] if architecture is None else replace(TINY[name], architecture=architecture)
    content = tensors(TINY[name], seed=1)
    if fault is not None:
        fault(content)
    with GGUFWriter(path) as file:
        for key, value in metadata(config).items():
            file.add(key, value)
        for tensor, (shape, layout, _) in content.items():
            file.declare(tensor, shape, layout)
        for tensor, (_, _, data) in content.items():
            file.write(tensor, data)
    return path


def report(path: Path) -> Report:
    with open_gguf(path) as file:
        return inspect_sanity(file, read_policy())


def caught(result: Report) -> set[tuple[str, str | None]]:
    return {(finding.role, finding.check) for finding in result.findings if finding.outside}


def floats(name: str, change: Callable[[NDArray[np.float32]], None]) -> Fault:
    def apply(content: Content) -> None:
        shape, layout, data = content[name]
        values = LAYOUTS[layout].unpack(data, shape).copy()
        change(values)
        packed = values.view(np.uint8).reshape(-1) if layout == "f32" else LAYOUTS[layout].pack(values)
        content[name] = shape, layout, packed

    return apply


def scaled(name: str, factor: float) -> Fault:
    def change(values: NDArray[np.float32]) -> None:
        values *= np.float32(factor)

    return floats(name, change)


def put(name: str, value: float) -> Fault:
    def change(values: NDArray[np.float32]) -> None:
        values[3] = value

    return floats(name, change)


def repacked(name: str, layout: str) -> Fault:
    def apply(content: Content) -> None:
        shape, old, data = content[name]
        content[name] = shape, layout, LAYOUTS[layout].pack(LAYOUTS[old].unpack(data, shape))

    return apply


def trits(name: str, change: Callable[[NDArray[np.int8]], None]) -> Fault:
    def apply(content: Content) -> None:
        shape, layout, data = content[name]
        values, scales = LAYOUTS[layout].trits(data, shape)
        change(values)
        content[name] = shape, layout, LAYOUTS[layout].pack_trits(values, scales)

    return apply


def no_rows(count: int) -> Callable[[NDArray[np.int8]], None]:
    def change(values: NDArray[np.int8]) -> None:
        values[5 : 5 + count] = 0

    return change


def few_left(values: NDArray[np.int8]) -> None:
    values[:, 8:] = 0
    values[:, 0] = 1


def none_zero(values: NDArray[np.int8]) -> None:
    values[values == 0] = 1


def tail_scale(name: str, change: Callable[[float], float]) -> Fault:
    def apply(content: Content) -> None:
        shape, layout, data = content[name]
        place = slice(data.size - 32, data.size - 28)
        old = float(data[place].copy().view("<f4")[0])
        data[place] = np.array([change(old)], "<f4").view(np.uint8)
        content[name] = shape, layout, data

    return apply


def block_scale(name: str, value: float) -> Fault:
    """One block of a TQ2_0 tensor gets another scale; all tensors are made TQ2_0."""

    def apply(content: Content) -> None:
        for tensor, (_, layout, _) in list(content.items()):
            if layout == "i2_s":
                repacked(tensor, "tq2_0")(content)
        data = content[name][2]
        data[66 * 7 + 64 : 66 * 7 + 66] = np.array([value], "<f2").view(np.uint8)

    return apply


def code_3(content: Content) -> None:
    content[Q][2][100] |= 0b00110000


FAULTS: dict[str, tuple[str, Fault, str, str, str]] = {
    "gamma NaN": (BITNET, put(GAMMA, math.nan), EVERY, "nonfinite", "FAIL"),
    "gamma Inf": (BITNET, put(GAMMA, -math.inf), EVERY, "nonfinite", "FAIL"),
    "scale NaN": (BITNET, tail_scale(Q, lambda _: math.nan), EVERY, "nonfinite", "FAIL"),
    "block scale Inf": (LLAMA, block_scale(Q, math.inf), EVERY, "nonfinite", "FAIL"),
    "code 3": (BITNET, code_3, EVERY, "invalid_codes", "FAIL"),
    "attention gamma vanishes": (BITNET, scaled(GAMMA, 0.001), "attn_norm", "rms", "ATTENTION"),
    "sub-norm gamma explodes": (
        BITNET,
        scaled("blk.0.attn_sub_norm.weight", 1000),
        "attn_sub_norm",
        "rms",
        "ATTENTION",
    ),
    "gamma over the width": (BITNET, scaled("blk.0.ffn_norm.weight", 1 / 128), "ffn_norm", "rms", "ATTENTION"),
    "FFN sub-norm zero": (BITNET, scaled("blk.0.ffn_sub_norm.weight", 0), "ffn_sub_norm", "rms", "ATTENTION"),
    "output norm zero": (BITNET, scaled(OUTPUT_NORM, 0), "output_norm", "rms", "ATTENTION"),
    "embedding zero": (BITNET, scaled("token_embd.weight", 0), "embedding and head", "rms", "ATTENTION"),
    "head zero": (LLAMA, scaled("output.weight", 0), "embedding and head", "rms", "ATTENTION"),
    "gamma in 8 bits": (BITNET, repacked(GAMMA, "q8_0"), "attn_norm", "bits", "ATTENTION"),
    "matrix in 16 bits": (BITNET, repacked(Q, "f16"), "attention", "bits", "ATTENTION"),
    "inverse scale": (LLAMA, tail_scale(Q, lambda scale: 1 / scale), "attention", "rms", "ATTENTION"),
    "vanishing scale": (BITNET, tail_scale(DOWN, lambda _: 1e-6), "feed-forward", "rms", "ATTENTION"),
    "negative scale": (BITNET, tail_scale(Q, lambda scale: -scale), "attention", "scale", "ATTENTION"),
    "one block's scale": (LLAMA, block_scale(DOWN, 70), "feed-forward", "scale", "ATTENTION"),
    "one dead output": (BITNET, trits(Q, no_rows(1)), "attention", "zero_rows", "ATTENTION"),
    "many dead neurons": (BITNET, trits(GATE, no_rows(20)), "feed-forward", "zero_rows", "ATTENTION"),
    "hardly a weight": (BITNET, trits(Q, few_left), "attention", "zero_fraction", "ATTENTION"),
    "no zero trit": (BITNET, trits(DOWN, none_zero), "feed-forward", "zero_fraction", "ATTENTION"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_defect_is_caught_by_exactly_its_check(tmp_path: Path, fault: str) -> None:
    name, change, role, check, verdict = FAULTS[fault]
    result = report(write(tmp_path / "m.gguf", name, change))
    assert caught(result) == {(role, check)}
    assert result.verdict == verdict
    (finding,) = (finding for finding in result.findings if finding.outside)
    assert len(finding.outside) == 1


def test_a_tensor_of_scale_zero_has_no_weights(tmp_path: Path) -> None:
    result = report(write(tmp_path / "m.gguf", BITNET, tail_scale(Q, lambda _: 0.0)))
    assert caught(result) == {("attention", "rms"), ("attention", "zero_rows")}
    result = report(write(tmp_path / "n.gguf", LLAMA, block_scale(Q, 0.0)))
    # A block of this matrix is a whole row.
    assert caught(result) == {("attention", "zero_rows")}


@pytest.mark.parametrize("name", TINY)
def test_clean_models_pass(tmp_path: Path, name: str) -> None:
    result = report(write(tmp_path / "m.gguf", name))
    assert {finding.verdict for finding in result.findings} <= {"PASS", "N-A"}
    assert result.verdict == "PASS"
    assert NO_RULE not in {finding.role for finding in result.findings}


def test_the_demo_passes() -> None:
    result = report(resolve_model("demo"))
    assert (result.verdict, result.rules.name) == ("PASS", "bitnet-b1.58, ternary")
    assert {finding.verdict for finding in result.findings} == {"PASS"}


@pytest.mark.parametrize("gamma", [0.01, 0.012, 0.018, 0.024])
def test_small_attention_gammas_are_legitimate(tmp_path: Path, gamma: float) -> None:
    def change(content: Content) -> None:
        for block in (0, 1):
            scaled(f"blk.{block}.attn_norm.weight", gamma)(content)
            for letter in "qkv":
                tail_scale(f"blk.{block}.attn_{letter}.weight", lambda scale: scale / gamma)(content)

    result = report(write(tmp_path / "m.gguf", BITNET, change))
    assert result.verdict == "PASS"
    (found,) = (finding for finding in result.findings if (finding.role, finding.check) == ("attn_norm", "rms"))
    assert (found.low, found.high) == (pytest.approx(gamma, rel=0.1), pytest.approx(gamma, rel=0.1))


@pytest.mark.parametrize(
    "change",
    [trits(GATE, no_rows(3)), scaled("blk.1.ffn_sub_norm.weight", 30), scaled(OUTPUT_NORM, 0.05), put(GAMMA, -2.0)],
    ids=["dead neurons", "large sub-norm", "small output norm", "negative gamma"],
)
def test_unusual_values_pass(tmp_path: Path, change: Fault) -> None:
    assert report(write(tmp_path / "m.gguf", BITNET, change)).verdict == "PASS"


def test_unknown_architectures_get_the_loosest_rules(tmp_path: Path) -> None:
    result = report(write(tmp_path / "m.gguf", BITNET, scaled(GAMMA, 0.01), architecture="something"))
    assert (result.rules.name, result.verdict) == ("any", "PASS")
    result = report(write(tmp_path / "n.gguf", BITNET, put(GAMMA, math.nan), architecture="something"))
    assert result.verdict == "FAIL"


def test_tensors_without_a_rule_are_named(tmp_path: Path) -> None:
    def change(content: Content) -> None:
        content["blk.0.extra.weight"] = content[GAMMA]

    result = report(write(tmp_path / "m.gguf", BITNET, change))
    (finding,) = (finding for finding in result.findings if finding.role == NO_RULE)
    assert (finding.verdict, finding.n_tensors, finding.note) == ("N-A", 1, "blk.0.extra.weight")


@pytest.mark.parametrize(
    ("architecture", "file_type", "name"),
    [
        ("bitnet-b1.58", 40, "bitnet-b1.58, ternary"),
        ("bitnet-25", 37, "bitnet-b1.58, ternary"),
        ("bitnet-b1.58", 32, "bitnet-b1.58, floats"),
        ("bitnet", 40, "llama and bitnet, ternary"),
        ("llama", 36, "llama and bitnet, ternary"),
        ("llama", 1, "any"),
        ("llama", None, "any"),
        ("qwen3", 40, "any"),
    ],
)
def test_the_set_is_chosen_by_architecture_and_file_type(architecture: str, file_type: int | None, name: str) -> None:
    assert read_policy().choose(architecture, file_type).name == name


@pytest.mark.parametrize("piece", [256, 1024, 1 << 20])
@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_measurements_are_those_of_the_whole_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, piece: int
) -> None:
    """Pieces end anywhere in a row; some rows, and some blocks, are empty."""
    monkeypatch.setattr(sanity, "_PIECE_WEIGHTS", piece)
    layout, rng = LAYOUTS[name], np.random.default_rng(3)
    shape = (44, 288) if layout.block <= 128 and name != "i2_s" else (44, 768)
    values = rng.integers(-1, 2, shape).astype(np.float32)
    if layout.group:
        values *= rng.uniform(0.5, 2, (*shape[:-1], shape[-1] // layout.group)).repeat(layout.group, axis=-1)
    for row in (0, 7, 8, 9, 43):
        values[row] = 0
    values[20, :256] = 0
    with GGUFWriter(tmp_path / "t.gguf") as file:
        file.add("general.file_type", 40)
        file.declare("t", shape, name)
        file.write("t", layout.pack(values))
    order = {"i2_s_64": "64", "i2_s_4row": "4row"}.get(name, "128")
    with open_gguf(tmp_path / "t.gguf", i2s_layout=order) as opened:
        seen, whole = measure(opened, "t"), opened.unpack("t").astype(np.float64)
        scales = opened.trits("t")[1] if layout.is_ternary else None
    assert seen.rms == pytest.approx(math.sqrt((whole**2).mean()), rel=1e-6)
    assert seen.zero_rows == 5 / 44
    assert (seen.nonfinite, seen.bits) == (0, layout.bits)
    if scales is None:
        assert (seen.invalid_codes, seen.scale, seen.zero_fraction) == (None, None, None)
    else:
        assert seen.scale == (scales.min(), scales.max())
        assert (seen.invalid_codes, seen.zero_fraction) == (0, (whole == 0).mean())


def test_a_row_longer_than_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanity, "_PIECE_WEIGHTS", 128)
    values = np.zeros((3, 1280), np.float32)
    values[1, 640] = 1
    with GGUFWriter(tmp_path / "t.gguf") as file:
        file.declare("t", (3, 1280), "i2_s")
        file.write("t", LAYOUTS["i2_s"].pack(values))
    with open_gguf(tmp_path / "t.gguf") as opened:
        assert measure(opened, "t").zero_rows == 2 / 3


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    sizes = {"i2_s": (2048, 16384), "f16": (1024, 8192)}
    with GGUFWriter(tmp_path / "t.gguf") as file:
        for name, shape in sizes.items():
            file.declare(name, shape, name)
        for name, shape in sizes.items():
            file.write(name, np.full(LAYOUTS[name].nbytes(shape), 0x25, np.uint8))
    with open_gguf(tmp_path / "t.gguf") as opened:
        tracemalloc.start()
        for name in sizes:
            measure(opened, name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # What is read back after its pages were given up is what was written.
        assert (opened.data("i2_s")[:-32] == 0x25).all()
    assert peak < 20 << 20 < math.prod(sizes["i2_s"])


RULE = "schema = 1\n[[sets]]\nname = 's'\n[[sets.rules]]\nrole = 'r'\n"
PATTERN = RULE + "rms = { min = 0 }\n"
BROKEN: dict[str, tuple[str, str]] = {
    "not TOML": ("schema = ", "not a TOML file"),
    "deep": ("schema = " + "[" * 100_000, "not a TOML file"),
    "no schema": ("[every]", "schema"),
    "other schema": ("schema = 2\nsets = []", "unknown schema: F: schema: expected 1, got 2"),
    "true is no schema": ("schema = true\nsets = []", "unknown schema"),
    "unknown key": ("schema = 1\nset = []", "unknown key: F: set: expected one of every, schema, sets"),
    "no sets": ("schema = 1", "missing key: F: sets"),
    "empty sets": ("schema = 1\nsets = []", "F: sets: expected 1 to 256 tables"),
    "a set is a table": ("schema = 1\nsets = [1]", "wrong type: F: sets[0]: expected a table, got int 1"),
    "unknown key in a set": ("schema = 1\n[[sets]]\nname = 's'\narch = 'x'", "unknown key: F: sets[0]: arch"),
    "architecture": (RULE.replace("name", "architectures = 'llama'\nname") + "tensors = 'a'\nrms = { min = 0 }",
                     "F: sets[0]: architectures: expected a list"),
    "file type": (RULE.replace("name", "file_types = [true]\nname") + "tensors = 'a'\nrms = { min = 0 }",
                  "F: sets[0]: file_types: expected a list, not empty, of integers"),
    "unknown check": (RULE + "tensors = 'a'\nrsm = { min = 0 }", "unknown key: F: sets[0]: rules[0]: rsm"),
    "no check": (RULE + "tensors = 'a'", "rule without a check: F: sets[0]: rules[0]: r"),
    "unknown end": (RULE + "tensors = 'a'\nrms = { mni = 0 }", "unknown key: F: sets[0]: rules[0]: rms: mni"),
    "no end": (RULE + "tensors = 'a'\nrms = {}", "range without an end"),
    "upside down": (RULE + "tensors = 'a'\nrms = { min = 2, max = 1 }", "range is upside down: F: sets[0]: rules[0]: rms: min: "
                    "expected at most 1, got 2"),
    "text for a number": (RULE + "tensors = 'a'\nrms = { min = '0' }", "expected a number from 0 to inf, got str '0'"),
    "NaN": (RULE + "tensors = 'a'\nrms = { min = nan }", "out of range: F: sets[0]: rules[0]: rms: min"),
    "infinite": (RULE + "tensors = 'a'\nrms = { max = 1e999 }", "out of range"),
    "huge": (RULE + "tensors = 'a'\nrms = { max = 1" + "0" * 400 + " }", "out of range"),
    "percent": (RULE + "tensors = 'a'\nzero_fraction = { max = 90 }", "expected a number from 0 to 1, got 90"),
    "verdict": (RULE + "tensors = 'a'\nrms = { min = 0, outside = 'WARN' }", "unknown verdict"),
    "no pattern": (PATTERN, "missing key: F: sets[0]: rules[0]: tensors"),
    "empty pattern": (PATTERN + "tensors = ''", "F: sets[0]: rules[0]: tensors: expected 1 to 500 printable characters"),
    "long pattern": (PATTERN + f"tensors = '{'a' * 201}'", "at most 200 characters"),
    "quantified group": (PATTERN + "tensors = '(a+)+b'", "behind single characters only"),
    "counted": (PATTERN + "tensors = 'a{1000}{1000}'", "behind single characters only"),
    "back reference": (PATTERN + r"tensors = '(a)\1'", "behind single characters only"),
    "look-ahead": (PATTERN + "tensors = '(?=a)'", "behind single characters only"),
    "many quantifiers": (PATTERN + "tensors = '.*.*.*.*a'", "at most 3 of * and +"),
    "many alternatives": (PATTERN + "tensors = '" + "(a|a)" * 20 + "'", "16 of |"),
    "open group": (PATTERN + "tensors = '(a'", "missing )"),
    "two sets of a name": (PATTERN + "tensors = 'a'\n" + (PATTERN + "tensors = 'a'")[11:], "name occurs twice: F: sets: got s"),
    "too long": ("#" * (MAX_POLICY_BYTES + 1), "policy is too long"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_policy_is_refused_at_its_place(tmp_path: Path, case: str) -> None:
    text, message = BROKEN[case]
    path = tmp_path / "F"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FormatError) as caught_error:
        read_policy(path)
    assert message in str(caught_error.value).replace(str(path), "F")


def test_a_policy_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "F").write_bytes(b"schema = 1 # \xff")
    with pytest.raises(FormatError, match="not a TOML file"):
        read_policy(tmp_path / "F")


def test_a_policy_without_a_set_for_the_model_is_refused(tmp_path: Path) -> None:
    text = RULE.replace("name", "architectures = ['other']\nname") + "tensors = 'a'\nrms = { min = 0 }"
    (tmp_path / "F").write_text(text, encoding="utf-8")
    with pytest.raises(UnsupportedError, match=r"no rule set for this model: .*got architecture llama, file type 40"):
        read_policy(tmp_path / "F").choose("llama", 40)


def test_a_name_of_hostile_length_costs_no_matching(tmp_path: Path) -> None:
    (tmp_path / "F").write_text(PATTERN + "tensors = '.*a.*a.*b'", encoding="utf-8")
    rules = read_policy(tmp_path / "F").choose("any", None)
    assert rules.rule("a" * 60_000) is None
    assert rules.rule("aab") is rules.rules[0]


def run(*arguments: str | Path) -> int:
    return invoke([str(argument) for argument in ("inspect", *arguments)])


def test_strict_turns_attention_into_exit_5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "m.gguf", BITNET, scaled(GAMMA, 0.001))
    before = path.read_bytes()
    assert run(path, "--gate", "auto") == 0
    out = capsys.readouterr().out
    assert "sanity: ATTENTION, by the rules “bitnet-b1.58, ternary” of the built-in policy" in out
    assert f"ATTENTION: rms (0.004 … 8): {GAMMA} 0.00" in out
    assert "want no rescaling" in out
    assert run(path, "--gate", "auto", "--strict") == 5
    expected = f"tritium: model sanity: {path}: expected every check to PASS, got 0 FAIL and 1 ATTENTION\n"
    assert capsys.readouterr().err == expected
    assert path.read_bytes() == before


def test_fail_is_exit_5_and_none_skips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "m.gguf", BITNET, put(GAMMA, math.nan))
    assert run(path, "--gate", "auto") == 5
    captured = capsys.readouterr()
    assert f"FAIL: nonfinite (≤ 0): {GAMMA} 1" in captured.out
    assert captured.err.endswith("expected no check to FAIL, got 1 FAIL and 0 ATTENTION\n")
    assert run(path, "--gate", "none") == 0
    assert "sanity" not in capsys.readouterr().out
    assert run(path, "--gate", "none", "--json") == 0
    assert "gate" not in json.loads(capsys.readouterr().out)


def test_the_judgement_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "m.gguf", BITNET, tail_scale(Q, lambda scale: -scale))
    assert run(path, "--gate", "auto", "--strict", "--json") == 5
    gate = json.loads(capsys.readouterr().out)["gate"]
    assert (gate["gate"], gate["policy"], gate["strict"], gate["verdict"]) == ("auto", "built-in", True, "ATTENTION")
    assert gate["policy_sha256"] == read_policy().sha256
    (found,) = (finding for finding in gate["findings"] if finding["outside"])
    low = -1 / math.sqrt(128)
    assert found["outside"] == [{"tensor": Q, "low": pytest.approx(low), "high": pytest.approx(low)}]
    assert found["bound"] == {"min": 0, "max": 64}
    measured = {measurement["tensor"]: measurement for measurement in gate["measurements"]}
    assert measured[GAMMA]["zero_fraction"] is None
    assert measured[Q]["rms"] == pytest.approx(math.sqrt(2 / 3 / 128), rel=0.02)


def test_the_printed_policy_is_one_that_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--print-policy") == 0
    text = capsys.readouterr().out
    assert text == BUILT_IN.read_text(encoding="utf-8")
    policy = tmp_path / "mine.toml"
    policy.write_text(text, encoding="utf-8")
    assert read_policy(policy).sets == read_policy().sets
    model = write(tmp_path / "m.gguf")
    assert run(model, "--gate", "policy", "--policy", policy, "--strict") == 0
    capsys.readouterr()
    policy.write_text(text.replace("rms = { min = 0.004, max = 8 }", "rms = { min = 2, max = 8 }"), encoding="utf-8")
    assert run(model, "--gate", "policy", "--policy", policy, "--strict") == 5
    captured = capsys.readouterr()
    assert f"of {policy}" in captured.out
    assert captured.err.endswith("got 0 FAIL and 1 ATTENTION\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--gate", "policy"], 2, "--gate policy and --policy FILE go together"),
        (["--policy", "f"], 2, "--gate policy and --policy FILE go together"),
        (["--gate", "auto", "--policy", "f"], 2, "--gate policy and --policy FILE go together"),
        (["--strict"], 2, "--strict goes with --gate"),
        (["--gate", "always"], 2, "'always'"),
        (["--gate", "policy", "--policy", "/no/such/file"], 3, "/no/such/file: No such file"),
    ],
)
def test_wrong_usage(arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("demo", *arguments) == code
    assert message in capsys.readouterr().err
