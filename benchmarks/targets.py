"""What is aimed at, and what a run reached of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import results
from benchmarks.report import Phase
from benchmarks.work import BATCH, DECODE, INT8_KV, LARGE, LONG_DECODE, LONG_PROMPT, PROMPT
from tritium.bench.figures import digits
from tritium.bench.stats import Summary, summarize

F16, Q6_K = "tritium f16", "tritium q6_k"
PEER_F16, PEER_Q6_K = "llama.cpp tq2_0 f16", "llama.cpp tq2_0 q6_k"
GREEDY = "greedy"


@dataclass(frozen=True, slots=True)
class Target:
    """A goal, what would still do, and what was measured, None where nothing was; ``is_least`` goals are to be exceeded."""

    name: str
    unit: str
    goal: float
    enough: float
    measured: Summary | None
    is_least: bool = True

    @property
    def verdict(self) -> str:
        """Met, enough, missed or not measured, by the median."""
        if self.measured is None:
            return "not measured"
        value, goal, enough = self.measured.median, self.goal, self.enough
        if not self.is_least:
            value, goal, enough = -value, -goal, -enough
        return "met" if value >= goal else "enough" if value >= enough else "missed"

    def as_row(self) -> tuple[str, ...]:
        """Name, bound, measured, verdict."""
        sign = "≥" if self.is_least else "≤"
        both = "" if self.goal == self.enough else f", enough {digits(self.enough)} {self.unit}"
        found = self.measured
        told = (
            "–" if found is None else f"{digits(found.median)} {self.unit} ({digits(found.low)}–{digits(found.high)})"
        )
        return self.name, f"{sign} {digits(self.goal)} {self.unit}{both}", told, self.verdict


class Run:
    """A results file, its phases by name, threads and instruction set."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data
        self.phases: Sequence[Phase] = results.phases(data)
        self.n_threads: int = data["threads"]
        self.isa: str = data["isas"][0]

    def find(self, name: str, isa: str | None = None, n_threads: int | None = None) -> Phase | None:
        """A phase; by default with the best instruction set and the most threads."""
        wanted = name, isa or self.isa, n_threads or self.n_threads
        return next((p for p in self.phases if (p.name, p.isa, p.n_threads) == wanted), None)

    def faster(self, work: str, peer: str, isa: str | None = None) -> Summary | None:
        """Ours over a peer."""
        phase = self.find(work, isa)
        return phase.times_faster(peer) if phase is not None and peer in phase.heads else None

    def percent(self, work: str, engine: str, isa: str | None = None, *, bound: bool = False) -> Summary | None:
        """The share of the limit, or of the bound with attention."""
        phase = self.find(work, isa)
        if phase is None or engine not in phase.heads:
            return None
        return phase.bound_percent(engine) if bound else phase.limit_percent(engine)


def targets(run: Run) -> Iterator[Target]:
    """All of them, in the order of the page."""
    avx2 = "avx2" if run.isa != "avx2" else None
    yield Target("decode, f16 head, over llama.cpp TQ2_0", "×", 3.1, 2.2, run.faster(DECODE.name, PEER_F16))
    yield Target("decode, Q6_K head, over llama.cpp TQ2_0", "×", 2.9, 2.1, run.faster(DECODE.name, PEER_Q6_K))
    yield Target("decode, f16 head, of the byte roof", "%", 85, 85, run.percent(DECODE.name, F16))
    yield Target("decode, Q6_K head, of the byte roof", "%", 85, 85, run.percent(DECODE.name, Q6_K))
    yield Target("prompt of 512, of the int8 peak", "%", 85, 75, run.percent(LARGE.name, F16))
    yield Target("prompt of 128, of the int8 peak", "%", 70, 70, run.percent(PROMPT.name, F16))
    tokens = LONG_PROMPT.tokens
    long = run.percent(LONG_PROMPT.name, F16, bound=True)
    yield Target(f"prompt of {tokens}, of the int8 and float32 bound", "%", 70, 70, long)
    yield Target(f"decode after {tokens}, of the byte roof", "%", 75, 75, run.percent(LONG_DECODE.name, F16))
    yield Target(
        f"decode after {tokens} with an int8 cache, of the byte roof",
        "%",
        75,
        75,
        run.percent(LONG_DECODE.name, INT8_KV),
    )
    yield Target("8 sequences, of the lower of both roofs, head included", "%", 75, 75, run.percent(BATCH.name, F16))
    yield Target("AVX2: decode, f16 head, over llama.cpp TQ2_0", "×", 1.5, 1.5, run.faster(DECODE.name, PEER_F16, avx2))
    yield Target(
        "AVX2: decode, Q6_K head, over llama.cpp TQ2_0", "×", 1.5, 1.5, run.faster(DECODE.name, PEER_Q6_K, avx2)
    )
    yield Target("AVX2: prompt of 512, of the int8 peak", "%", 85, 85, run.percent(LARGE.name, F16, avx2))
    yield from _rest(run.data["rows"])


def _rest(rows: Mapping[str, Any]) -> Iterator[Target]:
    """Loading, memory, Python, sampler, receipts."""
    first = summarize(rows["loading"]["first_token_s"]) if "loading" in rows else None
    yield Target("warm load to the first token", "s", 1.5, 1.5, first, False)
    held = rows.get("memory", {}).get(f"{F16}, {LONG_DECODE.name}")
    anonymous = summarize([held["anonymous_bytes"] / 1e6]) if held and held["anonymous_bytes"] else None
    yield Target("anonymous memory with a context of 4096", "MB", 700, 700, anonymous, False)
    cost = rows.get("overhead")
    outside = cost["outside_us"] if cost else {}
    greedy = outside.get(GREEDY)
    python = summarize(greedy) if greedy else None
    yield Target("Python a token, greedy", "µs", 100, 100, python, False)
    for name, samples in outside.items():
        if name != GREEDY and greedy:
            more = summarize([a - b for a, b in zip(samples, greedy, strict=True)])
            yield Target(f"sampler a token, {name}", "µs", 150, 150, more, False)
    if cost:
        traced, plain = (cost["decode_s"][name] for name in ("with trace", "unrecorded"))
        more = summarize([100 * (a / b - 1) for a, b in zip(traced, plain, strict=True)])
        yield Target("decoding with a receipt's trace, more time", "%", 3, 3, more, False)
