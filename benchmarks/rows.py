"""What stands beside the phases: statistics of the weights, the cost of the rest, loading, what an int8 cache changes, noise."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.engines import Contestant
from benchmarks.quiet import noise_of
from benchmarks.session import OPS_TOKENS, Session, op_tables, say, show, slug
from benchmarks.work import FOLDER, NOISE, View
from tritium.backends import cpu
from tritium.bench.agreement import PASSAGE
from tritium.bench.perplexity import compare, cut_text
from tritium.bench.planted import Statistics, measure
from tritium.bench.stats import summarize
from tritium.engine.model import DEMO, load, resolve_model
from tritium.formats.gguf import open_gguf

STATISTICS_TOKENS = 16
OVERHEAD_TOKENS, OVERHEAD_CONTEXT, OVERHEAD_ROUNDS = 64, 8, 5
LOADS = 3


def measure_statistics(path: str) -> Statistics:
    """Of one file, on the reference."""
    with open_gguf(resolve_model(path)) as file:
        return measure(file, STATISTICS_TOKENS)


def statistics(session: Session, files: Mapping[str, Path]) -> None:
    """What is planted in the files, two at a time; about 20 seconds."""
    if not session.wants("statistics"):
        return
    say(f"statistics of {len(files)} models")
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        found = dict(zip(files, pool.map(measure_statistics, map(str, files.values())), strict=True))
    session.rows["statistics"] = {name: asdict(one) for name, one in found.items()}


def survivors(session: Session, demo: Contestant) -> None:
    """Rows of the head that are left after 4 bits and after 8, of engines whose ops were counted and of the embedded model."""
    if not session.wants("statistics"):
        return
    with demo.start(session.n_threads, FOLDER / f"{slug(demo.name, 'screened')}.log") as engine:
        shown = op_tables(engine, View(demo.name), cpu.isas()[0])
    table = session.rows.setdefault("survivors", {})
    for one in (*session.ops, shown):
        name = one["engine"]
        left = {row["op"]: row["macs_per_token"] / one["d_model"] for row in one["decode"] if row["part"] == "head"}
        if "refine" in left and name not in table:
            zeros = one["sparsity"] or {}
            table[name] = {
                "vocab_size": one["vocab_size"],
                "after_4_bits": left["refine"],
                "after_8_bits": left["rescore"],
                "zero_gates": zeros.get("zero_gates"),
                "zero_codes": zeros.get("zero_codes"),
            }
    show([*statistics_lines(session.rows), ""])


def statistics_lines(rows: Mapping[str, Any]) -> list[str]:
    """The statistics as a table."""
    lines = [
        f"weights · {STATISTICS_TOKENS} random tokens on the reference; rows left over {OPS_TOKENS} decoded",
        f"  {'model':24}{'zero trits %':>13}{'zeros before down %':>21}{'cosine to top row':>19}"
        f"{'rows left at 4 bits':>21}{'at 8 bits':>11}",
    ]  # fmt: skip
    found, left = rows.get("statistics", {}), rows.get("survivors", {})
    for name in dict.fromkeys((*found, *left)):
        s, rest = found.get(name), left.get(name)
        told = ("–", "–", "–") if s is None else (
            f"{100 * s['zero_trits']:.1f}", f"{100 * s['zeros_before_down']:.1f}", f"{s['top_cosine']:.3f}",
        )  # fmt: skip
        kept = ("–", "–") if rest is None else (
            f"{rest['after_4_bits']:.1f} of {rest['vocab_size']}", f"{rest['after_8_bits']:.1f}",
        )  # fmt: skip
        lines.append(f"  {name:24}{told[0]:>13}{told[1]:>21}{told[2]:>19}{kept[0]:>21}{kept[1]:>11}")
    return lines


def overhead(session: Session, contestant: Contestant) -> None:
    """Loading with a warm cache, what a token costs outside of the executor, and what receipts cost."""
    if not session.wants("overhead"):
        return
    log = FOLDER / f"{slug(contestant.name, 'overhead')}.log"
    loads: list[dict[str, Any]] = []
    for i in range(LOADS):
        with contestant.start(session.n_threads, log) as engine:
            loads.append(engine.description)
            if i == LOADS - 1:
                cost = engine.ask("overhead", tokens=OVERHEAD_TOKENS, context=OVERHEAD_CONTEXT, rounds=OVERHEAD_ROUNDS)
    session.rows["loading"] = {
        "engine": contestant.name,
        "load_s": [one["load_s"] for one in loads],
        "first_token_s": [one["first_token_s"] for one in loads],
        "memory": loads[-1]["memory"],
    }
    session.rows["overhead"] = cost
    show([*overhead_lines(session.rows), ""])


def overhead_lines(rows: Mapping[str, Any]) -> list[str]:
    """Loading and overhead as lines."""
    loading, cost = rows["loading"], rows["overhead"]
    first = summarize(loading["first_token_s"])
    held = loading["memory"]
    lines = [
        f"the rest · {loading['engine']}",
        f"  warm load to the first token {first.median:.2f} s ({first.low:.2f}–{first.high:.2f}); {held_text(held)}",
    ]
    for name, us in cost["outside_us"].items():
        s = summarize(us)
        lines.append(f"  {s.median:6.0f} µs a token outside the executor ({s.low:.0f}–{s.high:.0f}): {name}")
    plain = cost["decode_s"]["unrecorded"]
    for name in ("recorded", "with trace"):
        more = summarize([100 * (a / b - 1) for a, b in zip(cost["decode_s"][name], plain, strict=True)])
        lines.append(f"  {more.median:+6.1f} % time of decoding {name} ({more.low:+.1f} to {more.high:+.1f})")
    return lines


def held_text(held: Mapping[str, int | None]) -> str:
    """What a process holds."""
    parts = ((kind, held[f"{kind.replace('-', '_')}_bytes"]) for kind in ("anonymous", "file-backed"))
    return ", ".join(f"{kind} {'unknown' if n is None else f'{n / 1e6:.0f} MB'}" for kind, n in parts)


def cache_quality(session: Session, text: Path | None) -> None:
    """What a cache of int8 changes: perplexity of the embedded model on a text it has not seen, and the divergence."""
    if not session.wants("perplexity"):
        return
    words = PASSAGE if text is None else text.read_text(encoding="utf-8")
    with load(DEMO, kv="f16") as exact, load(DEMO, kv="int8") as coded:
        cut = cut_text(exact.tokenizer, words)
        found = compare(exact, coded, cut, context=exact.max_context, stride=exact.max_context)
    session.rows["int8_cache"] = {
        "text": "sonnet 18" if text is None else text.name,
        "text_sha256": hashlib.sha256(words.encode()).hexdigest(),
        "n_tokens": found.a.n_tokens,
        "perplexity_f16": found.a.perplexity.value,
        "perplexity_int8": found.b.perplexity.value,
        "delta_nats": found.delta.value,
        "delta_error": found.delta.error,
        "kl_nats": found.kl.value,
        "flips": found.flips,
    }
    row = session.rows["int8_cache"]
    show([
        f"int8 cache · embedded model, {row['text']}, {row['n_tokens']} tokens",
        f"  perplexity {row['perplexity_f16']:.4f} with f16, {row['perplexity_int8']:.4f} with int8; "
        f"{row['delta_nats']:+.5f} ± {row['delta_error'] or 0:.5f} nats a token; KL {row['kl_nats']:.2g}; "
        f"{row['flips']} best tokens differ", "",
    ])  # fmt: skip


def noise(session: Session) -> None:
    """Say whether the machine was quiet."""
    patience = session.patience
    verdict = {**noise_of(session.phases), "waited_s": patience.spent_s, "patience_s": patience.whole_s}
    session.rows["noise"] = verdict
    if verdict["is_quiet"]:
        show(["QUIET: others took hardly any CPU, bandwidth stayed, and the A/A controls agree"])
    else:
        show(["NOT QUIET, these ratios prove little: " + "; ".join(verdict["reasons"])])
    show([f"  {verdict['waited_s']:.0f} s went into waiting for calm and into rounds that were set aside"])


def files_of(contestants: Sequence[Contestant]) -> dict[str, Path]:
    """The models whose statistics count: of the planted ones one, noise, and the embedded one."""
    wanted = ("tritium f16", NOISE, "tritium demo")
    return {c.name: c.path for c in contestants if c.name in wanted}
