"""The promise over the whole matrix: every way to run a model and to cut its work gives one hash."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest

import matrix
import native_builds
from covering import Row, covering_rows, pairs
from tiny_models import MATRICES, WHOLE_BLOCKS, repacked, write_tiny
from tritium.backends.cpu import build_info, isas
from tritium.bench.synthetic import SHAPES, Recipe, make_model
from tritium.formats.gguf import open_gguf

TESTS = Path(__file__).parents[1]
DEMO = TESTS.parent / "src" / "tritium" / "data" / "demo.gguf"
RANDOM = ("relu2_gqa_untied_bf16", "silu_gqa_tied_head_dim_20", "llama_mha_untied_q6_k")
MODELS = ("demo", *RANDOM, matrix.BLOCK_SCALES)
ISAS = ("reference", *isas())
BUILT_WITH = build_info()[0].split()[0]
COMPILERS = (BUILT_WITH, "clang") if BUILT_WITH != "clang" and shutil.which("clang++") else (BUILT_WITH,)
PAIRS_BUDGET_S = 90
"""What the pairwise part may take on two idle cores, the build with clang included."""


def compute(rows: list[Row], paths: dict[str, Path], lengths: matrix.Lengths) -> list[tuple[str, int]]:
    """Run the rows, each compiler's in a process of its own, side by side. (hash, reused positions) of each."""
    modules = {BUILT_WITH: []} | {compiler: [native_builds.build_with_clang()] for compiler in COMPILERS[1:]}
    results: dict[int, tuple[str, int]] = {}
    running = []
    with contextlib.ExitStack() as stack:
        for compiler in COMPILERS:
            mine = [i for i, row in enumerate(rows) if row["compiler"] == compiler]
            work = [(str(paths[str(rows[i]["model"])]), rows[i], lengths, i) for i in mine]
            command = [sys.executable, TESTS / "matrix.py", *modules[compiler]]
            # Into a file: a pipe that nobody reads yet would hold the one process up until the other ends.
            output = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, text=True)
            assert process.stdin is not None
            process.stdin.write(json.dumps(work))
            process.stdin.close()
            running.append((mine, process, output))
        for mine, process, output in running:
            assert process.wait() == 0, "a worker died; its error stands above"
            output.seek(0)
            lines = output.read().splitlines()
            results |= {i: tuple(json.loads(line)) for i, line in zip(mine, lines, strict=True)}
    return [results[i] for i in range(len(rows))]


def check(rows: list[Row], results: list[tuple[str, int]]) -> None:
    """All hashes of a model are equal, and positions were reused wherever they were to be."""
    by_hash: dict[tuple[object, str], list[Row]] = defaultdict(list)
    for row, (digest, n_reused) in zip(rows, results, strict=True):
        by_hash[row["model"], digest].append(row)
        assert bool(n_reused) == row["reuse"], row
    counts = {key: len(found) for key, found in by_hash.items()}
    assert len(counts) == len({model for model, _ in counts}), (counts, [found[0] for found in by_hash.values()])
    for model, _ in counts:
        assert any(row["model"] == model and row["isa"] == "reference" for row in rows)


def small_models(folder: Path) -> dict[str, Path]:
    whole = write_tiny(folder / "whole_blocks.gguf", WHOLE_BLOCKS, seed=7)
    return (
        {"demo": DEMO}
        | {name: write_tiny(folder / f"{name}.gguf", name, seed=7) for name in RANDOM}
        | {matrix.BLOCK_SCALES: repacked(whole, folder / "block_scales.gguf", "tq2_0", MATRICES)}
    )


def test_the_chosen_rows_try_every_pair() -> None:
    everything = matrix.rows(MODELS, matrix.INSTRUCTION_SETS, ("gcc", "clang"))
    chosen = matrix.pairwise(MODELS, matrix.INSTRUCTION_SETS, ("gcc", "clang"))
    assert set().union(*map(pairs, chosen)) == set().union(*map(pairs, everything))
    assert chosen == matrix.pairwise(MODELS, matrix.INSTRUCTION_SETS, ("gcc", "clang"))
    assert (len(everything), len(chosen)) == (20088, 29)


@pytest.mark.timeout(10 * PAIRS_BUDGET_S)
def test_every_pair_of_circumstances_gives_the_same_bits(tmp_path: Path) -> None:
    """Skips at the end if it could not try clang."""
    rows = matrix.pairwise(MODELS, ISAS, COMPILERS)
    check(rows, compute(rows, small_models(tmp_path), matrix.SMALL))
    if len(COMPILERS) == 1:
        pytest.skip(f"no clang++ on this machine: all rows agreed, but they ran with {BUILT_WITH} only")


@pytest.mark.nightly
def test_all_combinations_give_the_same_bits(tmp_path: Path) -> None:
    rows = matrix.rows(MODELS, ISAS, COMPILERS)
    check(rows, compute(rows, small_models(tmp_path), matrix.SMALL))


@pytest.mark.nightly
def test_every_pair_gives_the_same_bits_at_full_width_and_depth(tmp_path: Path) -> None:
    """The shape of BitNet b1.58 2B4T with random weights and the embedded model's vocabulary.

    The reference reads all weights with every pass, ten minutes of passes where it is given a token at a time: here it only says
    what is right, from as few passes as can be. How it cuts its own work the small models try.
    """
    path = tmp_path / "deep.gguf"
    with open_gguf(DEMO) as vocabulary:
        make_model(Recipe(SHAPES["2b4t"], plain=True), vocabulary, path)
    everything = matrix.rows(("2b4t",), ISAS, COMPILERS)
    rows = covering_rows(
        [row for row in everything if row["isa"] != "reference" or (row["chunk"], row["batch"]) == (None, 8)]
    )
    check(rows, compute(rows, {"2b4t": path}, matrix.LARGE))


@pytest.mark.nightly
def test_clang_compiles_right_kernels() -> None:
    if len(COMPILERS) == 1:
        pytest.skip("no clang++ on this machine")
    tests = TESTS / "parity" / "test_kernels.py"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:xdist",
        "--native",
        native_builds.build_with_clang(),
        tests,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
