"""Two builds on one machine in one job: rounds of fresh processes, each of which writes a receipt.

A round runs the build before, the one after and the one before once more (the control), the next round in reverse. Every sample
is a process of its own, so that where a process happens to lie in memory is noise between pairs, not a difference of builds.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tritium.bench.builds import Build, last_words
from tritium.bench.figures import FIGURES, Sample, judge_exact, read_sample
from tritium.bench.regression import judge_classic, judge_pairs, judge_ratchet
from tritium.bench.stats import Clock, interleave
from tritium.bench.verdict import Decision, together
from tritium.errors import UnsupportedError
from tritium.receipts import schema

ARMS = ("before", "after", "control")
_LONGEST_RUN_S = 3600

Figure = Callable[[Mapping[str, Any]], float | None]


def _decode_ms(receipt: Mapping[str, Any]) -> float | None:
    """Of the fastest run in the process: what disturbs a run only ever slows it."""
    times = [r["decode_ns"] / (r["n_tokens"] - 1) / 1e6 for r in receipt["evidence"]["repeats"] if r["n_tokens"] > 1]
    return min(times, default=None)


METRICS: dict[str, Figure] = {
    "decode": _decode_ms,
    "prefill": FIGURES["prefill_ms"],
    "cpu": FIGURES["cpu_ms_per_token"],
}
"""Times by name, all of them better when less: milliseconds a decoded token, to the first token, of CPU a forwarded token."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What each sample runs: greedy decoding of ``tokens`` after ``prompt``, ``repeats`` times."""

    model: str
    prompt: str
    tokens: int
    repeats: int
    threads: int | None


def run_sample(build: Build, workload: Workload, path: Path, running: Path) -> Sample:
    """Run a build once and read its receipt, which it writes to ``running`` and which then lies at ``path``.

    All arms get command lines of one length: another one moves the stack, and that alone makes a difference.
    Errors: UnsupportedError with the build's own words if it fails.
    """
    w = workload
    threads = () if w.threads is None else ("--threads", str(w.threads))
    command = [*build.command, "run", w.prompt, "-m", w.model, "-n", str(w.tokens), "--no-chat", "--repeats", str(w.repeats),
               *threads, "--receipt", str(running)]  # fmt: skip
    try:
        subprocess.check_output(
            command, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, encoding="utf-8", errors="replace",
            timeout=_LONGEST_RUN_S,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise UnsupportedError("a build does not run", where=build.name, got=last_words(error)) from None
    if not running.exists():
        raise UnsupportedError("a build wrote no receipt", where=build.name)
    running.replace(path)
    return read_sample(path)


def run_rounds(
    builds: Mapping[str, Build], workload: Workload, folder: Path, *, n_pairs: int, metric: str,
    budget_ns: int, tell: Callable[[str], None], clock: Clock = time.perf_counter_ns,
) -> dict[str, list[Sample]]:  # fmt: skip
    """Run the builds of all arms in ``n_pairs`` rounds, fewer if ``budget_ns`` ends before; a receipt each under ``folder``.

    Only the first round is run if the exact gates refuse it. Errors: as ``run_sample``.
    """
    samples: dict[str, list[Sample]] = {arm: [] for arm in ARMS}

    def measurement(arm: str) -> Callable[[], float]:
        def measure() -> float:
            place = folder / arm / f"{len(samples[arm]) + 1:03d}.json"
            place.parent.mkdir(parents=True, exist_ok=True)
            samples[arm].append(run_sample(builds[arm], workload, place, folder / "running.json"))
            tell(f"{arm} {len(samples[arm])} of {n_pairs}")
            return METRICS[metric](samples[arm][-1].receipt) or 0.0

        return measure

    interleave({arm: measurement(arm) for arm in ARMS}, n_rounds=1, budget_ns=0)
    if n_pairs > 1 and judge_counted(samples).word == "PASS":
        # The second round is the first one's mirror image.
        interleave(
            {arm: measurement(arm) for arm in reversed(ARMS)}, n_rounds=n_pairs - 1, budget_ns=budget_ns, clock=clock
        )
    return samples


def judge_counted(samples: Mapping[str, Sequence[Sample]]) -> Decision:
    """The gates that need no clock: every receipt is accepted, all are of one key, and no binding fact differs.

    A receipt after that is refused is FAIL; one before, or one that lacks evidence, leaves nothing to compare with.
    """
    every = [sample for arm in samples.values() for sample in arm]
    if not all(samples.get(arm) for arm in ("before", "after")):
        return Decision("INCONCLUSIVE", ("a side has no receipt",))
    for arm in ("after", "before", "control"):
        doubted = [sample for sample in samples.get(arm, ()) if sample.problem is not None]
        if doubted:
            is_wrong = arm == "after" and any(sample.is_refused for sample in doubted)
            return Decision("FAIL" if is_wrong else "INCONCLUSIVE", tuple(f"{s.path}: {s.problem}" for s in doubted))
    keys = {_comparable(sample) for sample in every}
    if None in keys or len(keys) != 1:
        return Decision("INCONCLUSIVE", ("receipts without one common key cannot be compared",))
    first = samples["before"][0].receipt
    found = [judge_exact(first, sample.receipt) for sample in every]
    return next((d for d in found if d.word == "FAIL"), judge_exact(first, samples["after"][0].receipt))


def _comparable(sample: Sample) -> object:
    """The key without the instruction set: that of the kernels that ran is the build's choice, and may be what changed."""
    key = sample.key
    return None if key is None else (key.os, key.machine, key.threads, key.backend, key.model, key.workload)


def judge_samples(samples: Mapping[str, Sequence[Sample]], policy: str, metric: str) -> Decision:
    """Receipts of two builds by a policy: exact gates first, then ``pairs``, ``ratchet`` or ``classic``.

    ``pairs`` wants a control and receipts that were written in rounds, which their clocks tell.
    """
    exact = judge_counted(samples)
    if exact.word != "PASS":
        return exact
    times = {arm: [METRICS[metric](sample.receipt) for sample in samples.get(arm, ())] for arm in ARMS}
    before, after = times["before"], times["after"]
    if policy == "ratchet":
        return together([judge_ratchet(_speeds(before), _speeds(after)), exact])
    if policy == "classic":
        return together([judge_classic(_median_speed(before), _median_speed(after)), exact])
    if not _in_rounds([[_started(sample) for sample in samples.get(arm, ())] for arm in ARMS]):
        reason = "the receipts were not written in rounds of before, after and control: they cannot be paired"
        return together([Decision("INCONCLUSIVE", (reason,)), exact])
    return together([judge_pairs(_plain(before), _plain(after), _plain(times["control"]), name=metric), exact])


def _plain(times: Sequence[float | None]) -> list[float]:
    return [0.0 if time is None else time for time in times]


def _speeds(times: Sequence[float | None]) -> list[float | None]:
    return [1e3 / time if time else None for time in times]


def _median_speed(times: Sequence[float | None]) -> float | None:
    speeds = _speeds(times)
    return None if None in speeds else statistics.median(speed for speed in speeds if speed is not None)


def _started(sample: Sample) -> float:
    return schema.parse_time(sample.receipt["evidence"]["run"]["started"]).timestamp()


def _in_rounds(arms: Sequence[Sequence[float]]) -> bool:
    """True where the n-th starts of all arms lie before every start of the round after."""
    if len({len(arm) for arm in arms}) != 1:
        return False
    rounds = list(zip(*arms, strict=True))
    return all(max(one) < min(other) for one, other in pairwise(rounds))
