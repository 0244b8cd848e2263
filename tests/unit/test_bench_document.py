"""The page of performance: made of a recorded run, bound to its receipts, refused when either was touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from benchmarks import results
from benchmarks.document import main
from benchmarks.published import publish, published
from benchmarks.report import BANDWIDTH, BUSY, CONTROL, F32_PEAK, PEAK, Load, Phase
from benchmarks.session import Session
from benchmarks.targets import Run, Target, targets

from tritium.bench.claims import check_claims, find_claims
from tritium.bench.stats import Rounds, Summary
from tritium.errors import FormatError
from tritium.receipts import jcs

RECEIPT = "docs/tdd/receipts/cpu_positive_example.json"
OURS, PEER = "tritium f16", "llama.cpp tq2_0 f16"
LIMITS = {BANDWIDTH: [10.0, 10.0, 10.0], PEAK: [100.0, 90.0, 80.0], F32_PEAK: [20.0, 20.0, 20.0], BUSY: [1.0, 2.0, 1.0]}
OP = {
    "op": "ffn_gate", "kernel": "i2s_gemv_avx2", "part": "body", "calls_per_token": 1.0, "us_per_token": 50.0,
    "bytes_per_token": 1e6, "macs_per_token": 3e6, "macs_skipped_per_token": 1e6, "gb_per_s": 20.0, "gmac_per_s": 60.0,
    "limit_percent": 90.0,
}  # fmt: skip
ROWS = {
    "noise": {"is_quiet": True, "reasons": []},
    "statistics": {OURS: {"zero_trits": 0.42, "zeros_before_down": 0.8, "top_cosine": 0.15}},
    "survivors": {
        "tritium q6_k": {
            "vocab_size": 1000, "after_4_bits": 12.5, "after_8_bits": 1.0, "zero_gates": 0.8, "zero_codes": None,
        }
    },
    "loading": {"engine": OURS, "first_token_s": [1.4, 1.6, 1.7], "load_s": [1.3, 1.5, 1.6], "memory": {}},
    "overhead": {
        "outside_us": {"greedy": [60.0, 70.0, 80.0], "top-k": [190.0, 210.0, 300.0]},
        "decode_s": {"unrecorded": [1.0, 1.0, 1.0], "recorded": [1.0, 1.0, 1.0], "with trace": [1.01, 1.02, 1.03]},
    },
    "memory": {f"{OURS}, tg8 after 4032": {"anonymous_bytes": 650_000_000, "file_backed_bytes": 1_000_000_000}},
    "int8_cache": {
        "text": "sonnet", "n_tokens": 100, "perplexity_f16": 20.0, "perplexity_int8": 20.1, "delta_nats": 0.005,
        "delta_error": 0.001, "flips": 2,
    },
}  # fmt: skip


@pytest.fixture
def folder(repository: Path, tmp_path: Path) -> Path:
    """A run as the benchmarks leave it: two phases, one receipt that the judge accepts."""
    place = tmp_path / "run"
    (place / "receipts").mkdir(parents=True)
    shutil.copy(repository / RECEIPT, place / "receipts" / "one.json")
    receipt = json.loads((repository / RECEIPT).read_text(encoding="utf-8"))
    decode = {**LIMITS, OURS: [8.0, 9.0, 8.5], PEER: [4.0, 3.0, 3.4], CONTROL: [8.0, 9.0, 8.5]}
    prompt = {**LIMITS, OURS: [40.0, 40.0, 40.0], CONTROL: [40.0, 40.0, 40.0]}
    session = Session(place, 2, rows=ROWS, missing=["transformers: no environment"])
    session.receipts["receipts/one.json"] = {"receipt_id": jcs.digest(receipt), "verdict": "accepted", "required": ""}
    cost = {OURS: Load(1e9, 2e9, 1e8), PEER: Load(2e9, 2e9, 1e8)}
    heads = {OURS: "f16", PEER: "f16"}
    files = {OURS: "receipts/one.json"}
    session.phases = [
        Phase("tg8", "decode", 2, Rounds(decode, 3, False), cost, heads, frozenset({PEER}), "avx2", files),
        Phase("pp512", "prefill", 2, Rounds(prompt, 3, True), cost, {OURS: "f16"}, frozenset(), "avx2", files),
    ]
    session.ops.append({
        "engine": OURS, "title": f"{OURS}, avx2, 128 tokens", "tables": ["decode", "prefill"],
        "decode": [OP, {**OP, "op": "small", "us_per_token": 0.1}], "prefill": [OP],
        "bytes_by_part": {"body": 1e6, "head": 5e5, "kv": 1e5, "other": 1e4},
        "limits": {"read_bandwidth_gb_per_s": 22.0, "int8_peak_gmac_per_s": 70.0},
    })  # fmt: skip
    data = {**results.document(session, 300.0), "date": "2026-01-31", "isas": ["avx2", "scalar"]}
    (place / "results.json").write_text(json.dumps(data), encoding="utf-8")
    return place


def page_of(tmp_path: Path, folder: Path) -> str:
    assert main(["--publish", str(folder), "--root", str(tmp_path)]) == 0
    return (tmp_path / "docs/performance.md").read_text(encoding="utf-8")


def test_every_figure_of_the_page_has_its_evidence(tmp_path: Path, folder: Path) -> None:
    text = page_of(tmp_path, folder)
    claims = find_claims(Path("page.md"), text)
    check_claims(claims, tmp_path)
    assert {claim.status for claim in claims} == {"backed", "generated"}
    backed = [claim.text for claim in claims if claim.status == "backed"]
    (place,) = (tmp_path / "docs/baselines").iterdir()
    (copy,) = place.glob("bench-*/receipts/one.json")
    assert place.name == "2026-01-31"
    receipt = json.loads(copy.read_text(encoding="utf-8"))
    assert len(backed) == 2
    assert backed[0].endswith(" tok/s")
    assert float(backed[0].split()[0]) == pytest.approx(receipt["tokens_per_second"], rel=0.05)
    assert backed[1].endswith(" ms")
    row = next(
        line for line in text.splitlines() if line.startswith(f"| {PEER} | 2000 | 5 | 3.4 (3–4) | – | 68 (60–80) |")
    )
    assert row.endswith("| 2.5 (2–3) × |")
    assert "**Not measured:** transformers: no environment." in text
    assert "| small |" not in text


def test_page_and_picture_are_those_of_the_results(tmp_path: Path, folder: Path) -> None:
    text = page_of(tmp_path, folder)
    check = ["--check", "--root", str(tmp_path)]
    assert main(check) == 0
    page = tmp_path / "docs/performance.md"
    page.write_text(text.replace("68 (60–80)", "98 (60–80)"), encoding="utf-8")
    assert main(check) == 1
    assert main(["--root", str(tmp_path)]) == 0
    assert (main(check), page.read_text(encoding="utf-8")) == (0, text)
    (tmp_path / "docs/performance.svg").unlink()
    assert main(check) == 1


def stamp(n: int) -> str:
    return f"2026-11-21T06:11:20.75480{n}Z"


def changed(folder: Path, place: Path, cpu: str, date: str, last: int = 0) -> Path:
    """A copy of a run: on another processor, of another day, its receipt later by microseconds, which its clocks bear."""
    shutil.copytree(folder, place)
    path, data = place / "receipts" / "one.json", json.loads((place / "results.json").read_text(encoding="utf-8"))
    receipt = {**json.loads(path.read_text(encoding="utf-8")), "timestamp": stamp(last)}
    path.write_text(json.dumps(receipt), encoding="utf-8")
    data["receipts"]["receipts/one.json"]["receipt_id"] = jcs.digest(receipt)
    data["machine"]["cpu"], data["date"] = cpu, date
    (place / "results.json").write_text(json.dumps(data), encoding="utf-8")
    return place


@pytest.mark.parametrize(("last", "other"), [("Abacus", "Zuse"), ("Zuse", "Abacus")])
def test_every_machine_has_its_targets_and_the_last_run_the_page(
    tmp_path: Path, folder: Path, last: str, other: str
) -> None:
    late = changed(folder, tmp_path / "late", last, "2026-02-01", 2)
    early = changed(folder, tmp_path / "early", other, "2026-02-01", 1)
    for order in ((early, late), (late, early)):
        root = tmp_path / order[0].name / "root"
        for run in order:
            text = page_of(root, run)
        head, _, rest = text.partition(f"## Targets on {other}, ")
        assert f"on {last}, " in head
        assert f"on {other}" not in head
        assert [line.split(" | ")[0] for line in rest.splitlines() if line.startswith("| decode, f16 head")] == [
            "| decode, f16 head, over llama.cpp TQ2_0", "| decode, f16 head, of the byte roof",
        ]  # fmt: skip
        assert main(["--check", "--root", str(root)]) == 0


def test_a_run_takes_the_place_of_that_machine_s_earlier_one(tmp_path: Path, folder: Path) -> None:
    for cpu, date in (("Abacus", "2026-02-01"), ("Zuse", "2026-02-02"), ("Abacus", "2026-02-03")):
        publish(changed(folder, tmp_path / f"{cpu}-{date}", cpu, date), tmp_path)
    kept = [path.relative_to(tmp_path / "docs/baselines").parts[0] for path in published(tmp_path)]
    assert kept == ["2026-02-02", "2026-02-03"]


def test_a_copy_that_breaks_off_leaves_what_was_published(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = publish(changed(folder, tmp_path / "early", "Abacus", "2026-02-01", 1), tmp_path)
    later = changed(folder, tmp_path / "later", "Abacus", "2026-02-01", 2)

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.published.write_text", full)
        with pytest.raises(OSError, match="No space left"):
            publish(later, tmp_path)
    assert stamp(1) in (before.parent / "receipts" / "one.json").read_text(encoding="utf-8")
    assert publish(later, tmp_path) == before
    assert stamp(2) in (before.parent / "receipts" / "one.json").read_text(encoding="utf-8")
    assert [path.name for path in before.parent.parent.iterdir()] == [before.parent.name]


def test_without_results_there_is_no_page(tmp_path: Path) -> None:
    assert published(tmp_path) == []
    assert main(["--check", "--root", str(tmp_path)]) == 0
    assert not list(tmp_path.iterdir())


def test_a_receipt_that_was_touched_is_not_published(tmp_path: Path, folder: Path) -> None:
    path = folder / "receipts" / "one.json"
    receipt = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**receipt, "timestamp": "2026-01-01T00:00:00Z"}), encoding="utf-8")
    with pytest.raises(FormatError, match="a receipt of the results: receipts/one.json"):
        publish(folder, tmp_path)
    assert published(tmp_path) == []


def test_a_receipt_that_the_judge_refuses_is_told_and_left_out(tmp_path: Path, folder: Path) -> None:
    path, data = folder / "receipts" / "one.json", json.loads((folder / "results.json").read_text(encoding="utf-8"))
    receipt = {**json.loads(path.read_text(encoding="utf-8")), "tokens_per_second": 1e6}
    path.write_text(json.dumps(receipt), encoding="utf-8")
    data["receipts"]["receipts/one.json"]["receipt_id"] = jcs.digest(receipt)
    (folder / "results.json").write_text(json.dumps(data), encoding="utf-8")
    row = next(line for line in page_of(tmp_path, folder).splitlines() if line.startswith(f"| {OURS} |"))
    assert "| not accepted |" in row
    assert [path.name for path in (tmp_path / "docs/baselines/2026-01-31").glob("bench-*/*")] == ["results.json"]


def test_a_run_with_noise_says_so_first(tmp_path: Path, folder: Path) -> None:
    data = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    data["rows"]["noise"] = {"is_quiet": False, "reasons": ["others took up to 60 % of the CPUs"]}
    (folder / "results.json").write_text(json.dumps(data), encoding="utf-8")
    head, _, _ = page_of(tmp_path, folder).partition("## Targets")
    assert "**The machine was not quiet; these ratios prove little:** others took up to 60 % of the CPUs." in head
    assert "was quiet:" not in head


def test_only_the_page_of_a_run_that_waited_tells_of_waiting(tmp_path: Path, folder: Path) -> None:
    assert "Before a round" not in page_of(tmp_path, folder)
    data = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    data["rows"]["noise"] |= {"waited_s": 83.4, "patience_s": 150.0}
    data["phases"][0]["set_aside"] = 5
    (folder / "results.json").write_text(json.dumps(data), encoding="utf-8")
    page = page_of(tmp_path, folder)
    assert "- Before a round" in page
    assert "rounds set aside took 83 s" in page
    assert "set aside take 2.5 minutes at most" in page
    assert "rounds, 5 more set aside" in page


def test_the_page_shows_near_products_where_they_were_measured(tmp_path: Path, folder: Path) -> None:
    assert "near product" not in page_of(tmp_path, folder)
    data = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    data["phases"][0]["near_product_gmac_per_s"] = [70.0, 50.0, 60.0]
    (folder / "results.json").write_text(json.dumps(data), encoding="utf-8")
    page = page_of(tmp_path, folder)
    assert "| float32 peak, GMAC/s | near product, GMAC/s | others' share of the CPUs, % |" in page
    assert "| 60 (50–70) | 1 (1–2) |" in page


def test_targets_are_judged_by_the_median(folder: Path) -> None:
    found: dict[str, Any] = {t.name: t for t in targets(Run(results.read(folder / "results.json")))}
    verdicts = {name: target.verdict for name, target in found.items() if target.measured is not None}
    assert verdicts == {
        "decode, f16 head, over llama.cpp TQ2_0": "enough",  # 2.5 of 3.1
        "decode, f16 head, of the byte roof": "met",
        "prompt of 512, of the int8 peak": "met",  # 40 of 45 tokens a second in the middle round
        "AVX2: decode, f16 head, over llama.cpp TQ2_0": "met",
        "AVX2: prompt of 512, of the int8 peak": "met",
        "warm load to the first token": "missed",
        "anonymous memory with a context of 4096": "met",
        "Python a token, greedy": "met",
        "sampler a token, top-k": "met",  # 210 less 70
        "decoding with a receipt's trace, more time": "met",
    }
    assert found["decode, Q6_K head, over llama.cpp TQ2_0"].verdict == "not measured"


@pytest.mark.parametrize(
    ("value", "is_least", "verdict"),
    [(85, True, "met"), (80, True, "enough"), (70, True, "missed"), (75, False, "met"), (90, False, "missed")],
)
def test_a_bound_may_be_above_or_below(value: float, is_least: bool, verdict: str) -> None:
    goal, enough = (85, 75) if is_least else (75, 85)
    assert Target("x", "%", goal, enough, Summary(1, value, 0, value, value), is_least).verdict == verdict


def test_the_picture_names_works_and_limits(tmp_path: Path, folder: Path) -> None:
    page_of(tmp_path, folder)
    picture = (tmp_path / "docs/performance.svg").read_text(encoding="utf-8")
    words = {text.strip() for text in ElementTree.fromstring(picture).itertext()}
    assert {"tg8, f16 head", f"tg8, {PEER}", "pp512, f16 head", "10 GB/s", "avx2: 90 GMAC/s"} <= words
