"""What is measured: kinds of work, and the groups of engines that stand beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.engines import Contestant
from benchmarks.files import model_file
from benchmarks.report import Kind

FOLDER = Path("build/bench")
TRANSFORMERS = "transformers bf16 (dense)"
NOISE = "tritium f16, noise"
INT8_KV = "tritium f16, int8 KV"
LONG_CONTEXT = 4032
LONG_KV = {"prefix_cache": True, "max_context": 4096}
TQ1_0 = "llama.cpp tq1_0 q6_k"
TQ2_0 = ("llama.cpp tq2_0 f16", "llama.cpp tq2_0 q6_k")
SLOW = (TRANSFORMERS, TQ1_0)


@dataclass(frozen=True, slots=True)
class Work:
    """A kind of work in rounds: a prompt of ``tokens``, or ``tokens`` decoded after ``context``, of ``sequences`` side by side.

    Rounds end when ``budget_s`` are spent, but ``least`` are made. ``without`` names engines that would take most of the time, or
    of which nothing is asked; ``ours_only`` all peers. A ``is_fresh`` prompt is another one each round.
    """

    name: str
    kind: Kind
    tokens: int
    n_rounds: int
    budget_s: float
    context: int = 8
    sequences: int = 1
    without: tuple[str, ...] = ()
    ours_only: bool = False
    is_fresh: bool = False
    is_controlled: bool = True
    least: int = 2


@dataclass(frozen=True, slots=True)
class View:
    """Ops one by one of an engine, after a context, of sequences side by side; ``tables``: "decode", "prefill" or both."""

    engine: str
    tables: tuple[str, ...] = ("decode",)
    context: int = 128
    sequences: int = 1

    def title(self, isa: str) -> str:
        """What it shows."""
        together = f", {self.sequences} sequences" if self.sequences > 1 else ""
        return f"{self.engine}, {isa}{together}, {self.context} tokens"


@dataclass(frozen=True, slots=True)
class Group:
    """Engines that are loaded together, with what they do. ``isa`` None is the best of this machine.

    ``is_checked``: their logits are compared; ``views``: whose ops are shown.
    """

    n_threads: int
    contestants: tuple[Contestant, ...]
    works: tuple[Work, ...]
    isa: str | None = None
    is_checked: bool = True
    views: tuple[View, ...] = ()


# Short turns: bandwidth changes within half a second, and what stands beside each other is to meet the same.
DECODE = Work("tg8", "decode", 8, 64, 80, without=(NOISE, *SLOW))
SLOW_DECODE = Work("tg8 beside others", "decode", 8, 4, 25, without=TQ2_0, is_controlled=False)
PROMPT = Work("pp128", "prefill", 128, 12, 35, without=(NOISE,), ours_only=True)
SLOW_PROMPT = Work(
    "pp128 beside others", "prefill", 128, 3, 20, without=(NOISE, "tritium f16", TQ2_0[0], TQ1_0), is_controlled=False
)
LARGE = Work("pp512", "prefill", 512, 7, 45, without=(NOISE, "tritium q6_k"), ours_only=True)
BATCH = Work("tg16 of 8 sequences", "batch", 16, 12, 42, sequences=8, without=(NOISE, "tritium q6_k"), ours_only=True)
LONG_PROMPT = Work(
    f"pp{LONG_CONTEXT}", "prefill", LONG_CONTEXT, 2, 130, context=LONG_CONTEXT, without=(INT8_KV,), is_fresh=True,
    is_controlled=False,
)  # fmt: skip
LONG_DECODE = Work(f"tg8 after {LONG_CONTEXT}", "decode", 8, 24, 40, context=LONG_CONTEXT)


def ours(*heads: str, isa: str | None = None, say: Callable[[str], None]) -> list[Contestant]:
    """Tritium with these heads."""
    environment = {} if isa is None else {"TRITIUM_ISA": isa}
    return [
        Contestant(
            f"tritium {head}", "tritium", model_file(FOLDER, "i2s", head, is_peer=False, say=say), head,
            environment=environment,
        )
        for head in heads
    ]  # fmt: skip


def llama(
    interpreter: Path | None, variants: Sequence[tuple[str, str]], say: Callable[[str], None]
) -> list[Contestant]:
    """llama.cpp with these layouts and heads, if its environment exists."""
    if interpreter is None:
        return []
    return [
        Contestant(
            f"llama.cpp {layout} {head}", "llama_cpp", model_file(FOLDER, layout, head, is_peer=True, say=say), head,
            is_peer=True, interpreter=interpreter,
        )
        for layout, head in variants
    ]  # fmt: skip


def full(
    threads: Sequence[int], peers: tuple[Path | None, ...], isas: Sequence[str], say: Callable[[str], None]
) -> list[Group]:
    """Everything, the largest number of threads first. ``peers``: the Pythons of llama.cpp, of one without AVX-512, of torch."""
    llama_cpp, llama_avx2, transformers = peers
    most = max(threads)
    heads, tq2 = ("f16", "q6_k"), (("tq2_0", "f16"), ("tq2_0", "q6_k"))
    noise = model_file(FOLDER, "i2s", "f16", is_peer=False, say=say, plain=True)
    long_file = model_file(FOLDER, "i2s", "f16", is_peer=False, say=say)
    dense = [Contestant(TRANSFORMERS, "transformers", Path("none"), "bf16", True, transformers, most_decoded=8)]
    groups = [
        Group(
            most,
            (
                *ours(*heads, say=say), Contestant(NOISE, "tritium", noise, "f16"),
                *llama(llama_cpp, (*tq2, ("tq1_0", "q6_k")), say), *(dense if transformers else ()),
            ),
            (LARGE, PROMPT, DECODE, BATCH, SLOW_PROMPT, SLOW_DECODE),
            views=(
                View("tritium f16"), View("tritium q6_k"), View(NOISE, ()), View("tritium f16", ("prefill",), 512),
                View("tritium f16", ("decode",), 8, 8),
            ),
        ),
        Group(
            most,
            (
                Contestant("tritium f16", "tritium", long_file, "f16", options=LONG_KV),
                Contestant(INT8_KV, "tritium", long_file, "f16", options={**LONG_KV, "kv": "int8"}),
            ),
            (LONG_PROMPT, LONG_DECODE), is_checked=False, views=(View("tritium f16", ("decode",), LONG_CONTEXT),),
        ),
    ]  # fmt: skip
    if "avx2" in isas[1:]:
        beside = (*ours(*heads, isa="avx2", say=say), *llama(llama_avx2, tq2, say))
        groups.append(
            Group(
                most,
                beside,
                (_cut(DECODE, 40, 60), _cut(PROMPT, 12, 30), SLOW_PROMPT, LARGE),
                isa="avx2",
                views=(View("tritium f16", ("decode", "prefill"), 512),),
            )
        )
    for n in threads:
        if n != most:
            beside = (*ours(*heads, say=say), *llama(llama_cpp, tq2, say))
            groups.append(Group(n, beside, (_cut(DECODE, 24, 40),)))
    return groups


def quick(threads: Sequence[int], say: Callable[[str], None]) -> list[Group]:
    """Ours with one head, and the limits."""
    one = tuple(ours("f16", say=say))
    works = (_cut(DECODE, 16, 12), _cut(PROMPT, 3, 12))
    return [
        Group(n, one, works, views=(View("tritium f16", ("decode", "prefill")),) * (n == max(threads)))
        for n in sorted(threads, reverse=True)
    ]


def _cut(work: Work, n_rounds: int, budget_s: float) -> Work:
    return replace(work, n_rounds=n_rounds, budget_s=budget_s)
