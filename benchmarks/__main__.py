"""Measure the machine's limits, Tritium and its peers on the same weights, interleaved; print limit, ours, peer, ratio.

Numerics are checked in the same run: logits must have the same hash with every number of threads, every instruction set and the
scalar kernels. Every run of ours that a table shows has a receipt, which the judge must accept.
Exit 0: measured and checked; 1: a check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import results, rows
from benchmarks.engines import Contestant
from benchmarks.quiet import PATIENCE_S, Patience
from benchmarks.report import budget_lines, op_lines
from benchmarks.session import CHECK_TOKENS, RECEIPTS, Session, measure, say, show
from benchmarks.targets import Run, targets
from benchmarks.work import FOLDER, Group, full, quick
from tritium.backends import cpu
from tritium.engine.model import DEMO
from tritium.receipts.files import write_text

ROWS = ("statistics", "perplexity", "overhead")


def report(session: Session) -> Iterable[str]:
    """What follows the tables of the phases: ops, numerics, receipts, what is missing or failed."""
    for ops in session.ops:
        yield from budget_lines(ops["title"], ops)
        for kind in ops["tables"]:
            yield from op_lines(f"{kind} by op · {ops['title']}", ops[kind])
        yield ""
    for name, held in session.rows.get("memory", {}).items():
        yield f"memory · {name}: {rows.held_text(held)}"
    for name, hashes in session.hashes.items():
        verdict = "identical bits" if len(set(hashes.values())) == 1 else "DIFFERENT"
        yield f"numerics · {name}: {verdict} of {CHECK_TOKENS} tokens' logits with {'; '.join(hashes)}"
    accepted = sum(receipt["verdict"] == "accepted" for receipt in session.receipts.values())
    yield f"receipts · {accepted} of {len(session.receipts)} accepted"
    for line in session.missing:
        yield f"NOT MEASURED: {line}"
    for line in session.failures:
        yield f"FAILED: {line}"


def reached(data: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The targets of what was measured."""
    return [("target", "bound", "measured", "verdict"), *(t.as_row() for t in targets(Run(data)) if t.measured)]


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="ours and the limits only")
    parser.add_argument("--llama-cpp", type=Path, help="Python of an environment with llama-cpp-python")
    parser.add_argument(
        "--llama-cpp-avx2", type=Path, help="Python of one whose llama.cpp was compiled without AVX-512"
    )
    parser.add_argument("--transformers", type=Path, help="Python of an environment with transformers and torch")
    parser.add_argument("--threads", help="numbers of threads [default: 1 and all]")
    parser.add_argument("--isa", help="only groups with this instruction set")
    parser.add_argument("--only", help="only works and rows of these names, separated by commas")
    parser.add_argument("--rounds", type=int, help="at most so many rounds")
    parser.add_argument(
        "--patience", type=float, default=PATIENCE_S, metavar="SECONDS",
        help="how much longer the run may take on a loud machine [default: %(default)g]",
    )  # fmt: skip
    parser.add_argument("--text", type=Path, help="text for the perplexity of an int8 cache [default: a sonnet]")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of results.json and its receipts")
    return parser.parse_args()


def choose(given: argparse.Namespace, session: Session, threads: tuple[int, ...]) -> list[Group]:
    """The groups to measure; a peer without an environment is noted as missing."""
    if given.quick:
        groups = quick(threads, say)
    else:
        places = {
            "llama.cpp": given.llama_cpp,
            "llama.cpp without AVX-512": given.llama_cpp_avx2,
            "transformers": given.transformers,
        }
        found = {name: place if place is not None and place.is_file() else None for name, place in places.items()}
        session.missing += [f"{name}: no environment" for name, place in found.items() if place is None]
        groups = full(threads, tuple(found.values()), cpu.isas(), say)
    if given.isa:
        groups = [group for group in groups if (group.isa or cpu.isas()[0]) == given.isa]
    if given.rounds:
        few = given.rounds
        groups = [
            replace(group, works=tuple(replace(w, n_rounds=few, least=min(w.least, few)) for w in group.works))
            for group in groups
        ]
    return groups


def main() -> int:
    """Run it all."""
    given = parse()
    every = len(os.sched_getaffinity(0))
    threads = tuple(int(n) for n in given.threads.split(",")) if given.threads else tuple(sorted({1, every}))
    only = frozenset(given.only.split(",") if given.only else ())
    session = Session(given.output, max(threads), only, Patience(0.0 if given.quick else given.patience))
    groups = choose(given, session, threads)
    known = {*ROWS, *(work.name for group in groups for work in group.works)}
    if not session.only <= known:
        raise SystemExit(f"--only: expected names of {', '.join(sorted(known))}; got {', '.join(session.only - known)}")
    shutil.rmtree(given.output / RECEIPTS, ignore_errors=True)
    start = time.monotonic()
    contestants = list({c.name: c for group in groups for c in group.contestants}.values())
    demo = Contestant("tritium demo", "tritium", Path(DEMO), "f16", options={"head_screen": "on", "ffn_sparsity": "on"})
    try:
        if not given.quick:
            rows.statistics(session, {**rows.files_of(contestants), demo.name: demo.path})
            rows.cache_quality(session, given.text)
        for group in groups:
            try:
                measure(session, group)
            except RuntimeError as error:  # an engine of ours failed: what the others gave is kept
                session.failures.append(str(error))
        if not given.quick:
            rows.survivors(session, demo)
            rows.overhead(session, contestants[0])
    except KeyboardInterrupt:
        session.failures.append("interrupted")
    for name, hashes in session.hashes.items():
        if len(set(hashes.values())) != 1:
            session.failures.append(f"{name}: logits differ between runs")
    show(report(session))
    rows.noise(session)
    data = results.document(session, time.monotonic() - start)
    given.output.mkdir(parents=True, exist_ok=True)
    write_text(given.output / "results.json", json.dumps(data, indent=1, allow_nan=False) + "\n")
    show(f"  {name:62}{bound:28}{told:30}{verdict}" for name, bound, told, verdict in reached(data))
    show([f"{data['seconds']:.0f} s; raw samples in {given.output / 'results.json'}"])
    return 1 if session.failures else 0


if __name__ == "__main__":
    sys.exit(main())
