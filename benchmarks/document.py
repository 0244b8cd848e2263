"""Write docs/performance.md and its picture from the results of a run in docs/baselines.

``--publish FOLDER`` first takes the results and receipts of a run over, into the folder of their date; ``--check`` only compares
the page with what its results give. The page is that of the newest run; of other machines it shows the targets. Nothing on it is
written by hand but its last section, ``method.md`` and, of runs that waited for calm, ``waiting.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.published import publish, published
from benchmarks.report import BANDWIDTH, BUSY, F32_PEAK, NEAR, PEAK, Phase, made
from benchmarks.rows import STATISTICS_TOKENS
from benchmarks.session import OPS_TOKENS
from benchmarks.targets import Run, targets
from benchmarks.work import LONG_CONTEXT
from tritium.bench.figures import REQUIRED, digits, read_sample
from tritium.bench.stats import Summary, summarize
from tritium.receipts.files import write_text

PAGE = Path("docs/performance.md")
PICTURE = Path("docs/performance.svg")
METHOD = Path(__file__).with_name("method.md")
WAITING = Path(__file__).with_name("waiting.md")
SHOWN_PERCENT = 1.0
LIMITS = {
    BANDWIDTH: "read bandwidth, GB/s",
    PEAK: "int8 peak, GMAC/s",
    F32_PEAK: "float32 peak, GMAC/s",
    NEAR: "near product, GMAC/s",
    BUSY: "others' share of the CPUs, %",
}


def table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A table, and an empty line."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def told(summary: Summary | None) -> str:
    """The median and the range."""
    return "–" if summary is None else f"{digits(summary.median)} ({digits(summary.low)}–{digits(summary.high)})"


class Page:
    """The page of one run. ``path`` is its results file, below ``root``, which links and evidence start from.

    ``others`` are those of other machines.
    """

    def __init__(self, path: Path, root: Path, others: Sequence[Path] = ()) -> None:
        self.run = Run(results.read(path))
        self.data = self.run.data
        self.rows: Mapping[str, Any] = self.data["rows"]
        self.folder, self.path = path.parent, path.relative_to(root)
        self.others = [Page(other, root) for other in others]

    @cached_property
    def receipts(self) -> dict[str, Mapping[str, Any]]:
        """Those that were accepted, by their files."""
        names = {name for phase in self.run.phases for name in phase.receipts.values()}
        return {name: read_sample(self.folder / name).receipt for name in names if (self.folder / name).is_file()}

    def lines(self) -> Iterator[str]:
        """All of it."""
        yield from self.head()
        yield from ("## Targets", "")
        yield from self.reached()
        yield from self.limits()
        for phase in self.run.phases:
            yield from self.phase(phase)
        yield from self.budget()
        yield from self.ops()
        yield from self.weights()
        yield from self.rest()
        yield from self.elsewhere()
        yield from self.method()

    @property
    def machine(self) -> str:
        """What it was measured on."""
        m = self.data["machine"]
        return f"{m['cpu'] or 'unnamed CPU'}{', virtual' if m['virtual'] else ''}, {m['n_cpus']} CPUs"

    def origin(self) -> str:
        """From where and when."""
        d = self.data
        dirty = " with changes of its own" if d["dirty"] else ""
        return (
            f"Measured on {d['date']} from commit `{(d['commit'] or 'unknown')[:12]}`{dirty} on {self.machine}, {d['build'][0]}, "
            f"Linux {d['machine']['kernel']}, in {d['seconds'] / 60:.0f} minutes"
        )

    @property
    def link(self) -> str:
        """To the results."""
        return f"[results]({self.path.relative_to('docs').as_posix()})"

    def quiet(self) -> Iterator[str]:
        """Whether it counts."""
        noise = self.rows["noise"]
        if noise["is_quiet"]:
            waited = noise.get("waited_s", 0.0)
            beside = f" Waiting for calm and rounds set aside took {waited:.0f} s." if waited >= 1 else ""
            yield f"The machine was quiet: others took hardly any CPU, bandwidth stayed, and the A/A controls agree.{beside}"
        else:
            yield f"**The machine was not quiet; these ratios prove little:** {'; '.join(noise['reasons'])}."
        for word, name in (("Not measured", "not_measured"), ("Failed", "failures")):
            if self.data[name]:
                yield f"**{word}:** {'; '.join(self.data[name])}."

    def head(self) -> Iterator[str]:
        """What this is."""
        yield from (
            "# Performance", "", f"<!-- generated from {self.path.as_posix()} -->", "",
            f"{self.origin()}. `make bench` measures, `make bench-publish` writes this page from the {self.link}; nothing here "
            "is written by hand.", "",
        )  # fmt: skip
        yield from self.quiet()
        yield from (
            "",
            "Every table states the limit measured beside it, round by round; figures are the middle of the rounds with the "
            "least and the most. The weights have the shape of BitNet b1.58 2B4T (W1.58A8, 128 256 tokens) and planted "
            "statistics, unless noise stands there; decoding is greedy and includes sampler and Python. A figure of ours with a "
            f"unit behind it is the field of a receipt that the judge accepts at `{REQUIRED}`. The tables of ops show where the "
            "time goes.",
            "",
            f"![Roofline: products a second over products a byte]({PICTURE.name})", "",
        )  # fmt: skip

    def reached(self) -> Iterator[str]:
        """Targets."""
        found = list(targets(self.run))
        yield from table(("target", "bound", "measured", "verdict"), (t.as_row() for t in found))
        missed = [t.name for t in found if t.verdict == "missed"]
        yield f"Missed: {'; '.join(missed)}." if missed else "Nothing is missed."
        yield ""

    def elsewhere(self) -> Iterator[str]:
        """Targets on the other machines."""
        for other in self.others:
            yield from (f"## Targets on {other.machine}", "", f"{other.origin()}: {other.link}.", "")
            yield from other.quiet()
            yield ""
            yield from other.reached()

    def limits(self) -> Iterator[str]:
        """What the machine gave, over all rounds of each instruction set and number of threads."""
        yield from ("## Limits of the machine", "")
        groups: dict[tuple[str, int], list[Phase]] = {}
        for phase in self.run.phases:
            groups.setdefault((phase.isa, phase.n_threads), []).append(phase)
        shown = {
            name: title
            for name, title in LIMITS.items()
            if any(name in phase.rounds.samples for phase in self.run.phases)
        }

        def row(phases: Sequence[Phase], name: str) -> str:
            values = [x for phase in phases for x in phase.rounds.samples.get(name, [])]
            return told(summarize(values)) if values else "–"

        yield from table(
            ("limit of", *shown.values()),
            ((f"{isa}, {n} threads", *(row(phases, name) for name in shown)) for (isa, n), phases in groups.items()),
        )

    def phase(self, phase: Phase) -> Iterator[str]:
        """One kind of work."""
        is_prompt = phase.kind == "prefill"
        yield from (
            f"## {phase.name}: {phase.isa}, {phase.n_threads} threads",
            "",
            f"{made(phase.rounds)}.",
            "",
        )
        cost = "GMAC a token" if is_prompt else "MB a token"
        extra = ("% with attention",) if is_prompt else ()
        head = ("engine", cost, "limit, tok/s", "tok/s", "our receipt", "% of the limit", *extra, "ours over it")
        yield from table(head, (self.engine(phase, name) for name in phase.heads))

    def engine(self, phase: Phase, name: str) -> Iterator[str]:
        """A row of a phase."""
        is_prompt = phase.kind == "prefill"
        load, limits = phase.loads.get(name), phase.limits(name)
        yield name
        yield "–" if load is None else digits((load.macs_per_token if is_prompt else load.bytes_per_token / 1e-3) / 1e9)
        yield "–" if limits is None else digits(summarize(limits).median)
        yield told(summarize(phase.rounds.samples[name]))
        yield self.receipt(phase, name)
        yield told(phase.limit_percent(name))
        if is_prompt:
            yield told(phase.bound_percent(name))
        times = phase.times_faster(name)
        yield "–" if times is None else f"{told(times)} ×"

    def receipt(self, phase: Phase, name: str) -> str:
        """The receipt's figure with the comment that binds it."""
        if name not in phase.receipts:
            return "–"
        file = phase.receipts[name]
        if file not in self.receipts:
            return "not accepted"
        field, unit = ("prefill_ms", "ms") if phase.kind == "prefill" else ("tokens_per_second", "tok/s")
        value = self.receipts[file][field]
        decimals = 0 if value >= 1000 else 1 if value >= 10 else 2
        place = (self.path.parent / file).as_posix()
        return f"{value:.{decimals}f} {unit} <!-- bound: {place}#{field} speed=E2 -->"

    def budget(self) -> Iterator[str]:
        """Bytes of a token."""
        yield from ("## Bytes of a decoded token", "")
        yield from table(
            ("MB a token", "body", "head", "cache", "other", "all", "products skipped, %"),
            (self._budget(ops) for ops in self.data["ops"]),
        )

    def _budget(self, ops: Mapping[str, Any]) -> Iterator[str]:
        parts = ops["bytes_by_part"]
        yield ops["title"]
        yield from (digits(parts[part] / 1e6) for part in ("body", "head", "kv", "other"))
        yield digits(sum(parts.values()) / 1e6)
        skipped = sum(row["macs_skipped_per_token"] for row in ops["decode"])
        yield digits(100 * skipped / (skipped + sum(row["macs_per_token"] for row in ops["decode"])))

    def ops(self) -> Iterator[str]:
        """Ops one by one."""
        head = ("op", "kernel", "µs a token", "% of the time", "MB a token", "GB/s", "GMAC/s", "% of the limit")
        shown = [(view, kind) for view in self.data["ops"] for kind in view["tables"]]
        for view, kind in shown:
            rows, limits = view[kind], view["limits"]
            reads, multiplies = (digits(limits[n]) for n in ("read_bandwidth_gb_per_s", "int8_peak_gmac_per_s"))
            total = sum(row["us_per_token"] for row in rows)
            longest = [row for row in rows if 100 * row["us_per_token"] >= SHOWN_PERCENT * total]
            yield from (f"## Ops of {kind}: {view['title']}", "")
            yield f"Beside it {reads} GB/s, which caches may exceed, and {multiplies} GMAC/s of int8 products."
            yield ""
            yield from table(head, [_op(row, total) for row in longest])

    def weights(self) -> Iterator[str]:
        """Statistics of the models."""
        found, left = self.rows.get("statistics", {}), self.rows.get("survivors", {})
        yield from (
            "## What the rates depend on", "",
            f"Zeros and the cosine of the last hidden state with the row of the best token: {STATISTICS_TOKENS} random tokens on "
            f"the reference. Zero gates and codes, whose rows and columns are not read, and rows of the head that are left after "
            f"4 and 8 bits: {OPS_TOKENS} decoded tokens.", "",
        )  # fmt: skip
        head = ("model", "zero trits, %", "zeros before down, %", "cosine", "zero gates, %", "zero codes, %",
                "rows left at 4 bits", "at 8 bits")  # fmt: skip
        yield from table(head, (_weights(n, found.get(n, {}), left.get(n, {})) for n in dict.fromkeys((*found, *left))))

    def rest(self) -> Iterator[str]:
        """Loading, memory, overhead, the int8 cache."""
        yield from ("## The rest", "")
        if "loading" in self.rows:
            s = summarize(self.rows["loading"]["first_token_s"])
            yield f"- Loading with a warm cache, to the first token, takes {s.median:.2f} s ({s.low:.2f}–{s.high:.2f})."
        for name, held in self.rows.get("memory", {}).items():
            yield f"- Memory of {name}: {_mb(held['anonymous_bytes'])} anonymous, {_mb(held['file_backed_bytes'])} file-backed."
        for name, us in self.rows.get("overhead", {}).get("outside_us", {}).items():
            s = summarize(us)
            yield f"- Outside the executor a token takes {s.median:.0f} µs ({s.low:.0f}–{s.high:.0f}): {name}."
        cache = self.rows.get("int8_cache")
        if cache:
            yield (
                f"- An int8 cache of keys and values changes the embedded model's perplexity on {cache['n_tokens']} tokens of a "
                f"text ({cache['text']}) from {cache['perplexity_f16']:.4f} to {cache['perplexity_int8']:.4f}, "
                f"{cache['delta_nats']:+.5f} ± {cache['delta_error'] or 0:.5f} nats a token; {cache['flips']} best tokens differ."
            )
        for name, hashes in self.data["logits_sha256"].items():
            same = "the same bits" if len(set(hashes.values())) == 1 else "DIFFERENT bits"
            yield f"- Logits of {name}: {same} with {'; '.join(hashes)}."
        yield ""

    def method(self) -> Iterator[str]:
        """How it was measured."""
        engines = [about for kinds in self.data["engines"].values() for about in kinds.values()]
        peers = sorted({about["version"] for about in engines if "version" in about})
        text = METHOD.read_text(encoding="utf-8").rstrip("\n")
        yield text.format(peers=", ".join(peers) or "none", context=LONG_CONTEXT)
        if "patience_s" in self.rows["noise"]:
            minutes = f"{self.rows['noise']['patience_s'] / 60:.3g} minutes"
            yield WAITING.read_text(encoding="utf-8").rstrip("\n").format(patience=minutes)


def _op(row: Mapping[str, Any], total: float) -> Iterator[str]:
    yield row["op"]
    yield f"`{row['kernel']}`"
    yield digits(row["us_per_token"])
    yield digits(100 * row["us_per_token"] / total)
    yield digits(row["bytes_per_token"] / 1e6)
    yield digits(row["gb_per_s"])
    yield digits(row["gmac_per_s"])
    yield "–" if row["limit_percent"] is None else digits(row["limit_percent"])


def _weights(name: str, found: Mapping[str, Any], left: Mapping[str, Any]) -> Iterator[str]:
    def percent(share: float | None) -> str:
        return "–" if share is None else f"{100 * share:.1f}"

    yield name
    yield percent(found.get("zero_trits"))
    yield percent(found.get("zeros_before_down"))
    yield f"{found['top_cosine']:.3f}" if found else "–"
    yield percent(left.get("zero_gates"))
    yield percent(left.get("zero_codes"))
    yield f"{left['after_4_bits']:.1f} of {left['vocab_size']}" if left else "–"
    yield f"{left['after_8_bits']:.1f}" if left else "–"


def _mb(n_bytes: int | None) -> str:
    return "unknown" if n_bytes is None else f"{n_bytes / 1e6:.0f} MB"


def mark(path: Path) -> str:
    """What a picture says of the results that it was drawn from."""
    return f"<!-- drawn from results {hashlib.sha256(path.read_bytes()).hexdigest()} -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.document", description=__doc__)
    parser.add_argument("--publish", type=Path, metavar="FOLDER", help="take over a run's results.json and receipts")
    parser.add_argument("--check", action="store_true", help="exit 1 if page or picture are not those of the results")
    parser.add_argument("--root", type=Path, default=Path(), help="the folder that holds docs")
    given = parser.parse_args(arguments)
    root = given.root.resolve()
    if given.publish:
        publish(given.publish, root)
    *others, path = published(root) or (None,)
    if path is None:
        return 0
    text = "\n".join(Page(path, root, others).lines()) + "\n"
    page, picture = root / PAGE, root / PICTURE
    if given.check:
        drawn = picture.read_text(encoding="utf-8") if picture.is_file() else ""
        is_same = page.is_file() and page.read_text(encoding="utf-8") == text and mark(path) in drawn
        if not is_same:
            print(f"{PAGE} is not the page of {path.relative_to(root)}: run 'make docs'", file=sys.stderr)
        return 0 if is_same else 1
    from benchmarks.picture import draw

    write_text(page, text)
    write_text(picture, draw(Run(results.read(path)), mark(path)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
