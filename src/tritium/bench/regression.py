"""Is it slower than before? Pure functions from figures to a decision; each policy by its name.

``pairs`` (the default for a change): interleaved runs of two builds in one job. ``ratchet``: a set of receipts against the
release set, from other sessions. ``classic``: 95 and 110 percent of one figure. ``envelope``: a band around a documented speed.
What cannot be compared is INCONCLUSIVE, what is no figure at all FAILs; neither is ever a difference of zero.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tritium.bench.significance import shift, signed_ranks
from tritium.bench.verdict import Decision
from tritium.receipts import registry

POLICIES = ("pairs", "ratchet", "classic", "envelope")


@dataclass(frozen=True, slots=True)
class PairsPolicy:
    """Bounds of the paired test, as shares of the time before where they are percent.

    The rank test alone would call any reliable difference a regression, a bound alone any noise: both have to agree.
    """

    least_pairs: int
    max_p: float
    warn_percent: float
    fail_percent: float
    too_good_percent: float
    control_percent: float
    confidence: float


@dataclass(frozen=True, slots=True)
class RatchetPolicy:
    """Bounds between sessions, as shares of the release set's speed.

    ``session_noise_percent`` is the standard deviation of one session's median; a loss beyond ``certain_deviations`` of a
    difference of two is no noise, one within ``allowed_percent`` no finding, and between them only interleaved pairs can tell.
    """

    allowed_percent: float
    session_noise_percent: float
    certain_deviations: float
    too_good_percent: float
    spread_percent: float


@dataclass(frozen=True, slots=True)
class ClassicPolicy:
    """Bounds of one speed as shares of another."""

    pass_percent: float
    attention_percent: float


@dataclass(frozen=True, slots=True)
class Envelope:
    """A documented band of decode speeds of a 2-billion-weight model: tokens a second, widened by a tolerance at both ends."""

    name: str
    backend: str
    low: float
    high: float
    tolerance_percent: float
    kernels: Sequence[str]
    is_validation_only: bool

    @property
    def least(self) -> float:
        """The lowest speed inside."""
        return self.low * (1 - self.tolerance_percent / 100)

    @property
    def most(self) -> float:
        """The highest speed inside."""
        return self.high * (1 + self.tolerance_percent / 100)


POLICY_FILE = Path(__file__).with_name("regression.toml")
_BYTES = POLICY_FILE.read_bytes()
_TREE = tomllib.loads(_BYTES.decode("utf-8"))
POLICY_SHA256 = hashlib.sha256(_BYTES).hexdigest()
PAIRS = PairsPolicy(**_TREE["pairs"])
RATCHET = RatchetPolicy(**_TREE["ratchet"])
CLASSIC = ClassicPolicy(**_TREE["classic"])
ENVELOPES = tuple(Envelope(**row) for row in _TREE["envelope"])


def usable(figure: float | None) -> bool:
    """True of a figure that a speed or a time can be."""
    return figure is not None and math.isfinite(figure) and figure > 0


def _unusable(before: Iterable[float | None], after: Iterable[float | None], name: str) -> Decision | None:
    """The decision where a side has no figure: none to compare with, or none that was measured."""
    for side, figures in (("after", after), ("before", before)):
        listed = list(figures)
        bad = [f for f in listed if not usable(f)]
        if bad or not listed:
            what = "nothing" if not listed else "null" if bad[0] is None else f"{bad[0]:g}"
            told = f"{name} {side} is {what}"
            if side == "after" and listed:
                return Decision("FAIL", (f"{told}: not a measurement",))
            return Decision("INCONCLUSIVE", (f"{told}: nothing to compare with",))
    return None


def judge_pairs(
    before: Sequence[float], after: Sequence[float], control: Sequence[float], policy: PairsPolicy = PAIRS,
    *, name: str = "time",
) -> Decision:  # fmt: skip
    """Times of two builds, pair by pair from one job; ``control`` holds a second measurement of ``before`` in each round.

    Slower is FAIL from ``fail_percent`` on and ATTENTION from ``warn_percent`` on, if the exact signed-rank test finds it, too.
    PASS says that a slow-down of ``fail_percent`` is excluded; noise that cannot exclude it, or that makes one build differ
    from itself, is INCONCLUSIVE.
    """
    wrong = _unusable([*before, *control], after, name)
    if wrong is not None:
        return wrong
    n = len(before)
    if not n == len(after) == len(control) or n < policy.least_pairs:
        return Decision("INCONCLUSIVE", (f"{n} pairs, {policy.least_pairs} are the least",))
    logs = [math.log(b / a) for a, b in zip(before, after, strict=True)]
    itself = [math.log(c / a) for a, c in zip(before, control, strict=True)]
    middle, floor = (math.expm1(statistics.median(x)) for x in (logs, itself))
    ranks, same = signed_ranks(logs), signed_ranks(itself)
    effect = shift(logs, policy.confidence)
    low, high = (math.expm1(bound) for bound in (effect.low, effect.high))
    figures = {
        "n_pairs": n,
        "slowdown": middle,
        "slowdown_estimate": math.expm1(effect.estimate),
        "slowdown_interval": [low, high] if math.isfinite(high) else None,
        "confidence": policy.confidence,
        "p_slower": ranks.p_greater,
        "p_faster": ranks.p_less,
        "control_difference": floor,
        "control_p": same.p,
    }
    told = f"{name} {middle:+.2%} ({low:+.2%} to {high:+.2%}), p {ranks.p_greater:.2g}, {n} pairs"
    if same.p < policy.max_p and 100 * abs(floor) >= policy.control_percent:
        reason = f"one build differs from itself by {floor:+.2%} (p {same.p:.2g}): the noise forbids a verdict"
        return Decision("INCONCLUSIVE", (reason, told), figures)
    if ranks.p_greater < policy.max_p and 100 * middle >= policy.warn_percent:
        is_failure = 100 * middle >= policy.fail_percent
        bound = policy.fail_percent if is_failure else policy.warn_percent
        return Decision("FAIL" if is_failure else "ATTENTION", (f"slower: {told}, bound {bound:g}%",), figures)
    if 100 * high >= policy.fail_percent:
        return Decision("INCONCLUSIVE", (f"a slow-down of {policy.fail_percent:g}% is not excluded: {told}",), figures)
    if ranks.p_less < policy.max_p and middle <= 1 / (1 + policy.too_good_percent / 100) - 1:
        return Decision("ATTENTION", (f"faster than is plausible without a reason: {told}",), figures)
    return Decision("PASS", (told,), figures)


def judge_ratchet(
    release: Sequence[float | None], current: Sequence[float | None], policy: RatchetPolicy = RATCHET
) -> Decision:
    """Speeds of two sets of receipts from different sessions: their medians, with the noise between sessions in mind."""
    wrong = _unusable(release, current, "speed")
    if wrong is not None:
        return wrong
    old, fresh = ([f for f in side if f is not None] for side in (release, current))
    ratio = statistics.median(fresh) / statistics.median(old)
    noise = max(math.sqrt(2) * policy.session_noise_percent / 100, spread(old) + spread(fresh))
    allowed = policy.allowed_percent / 100
    certain = policy.certain_deviations * noise
    figures = {"ratio": ratio, "certain_loss": certain, "n_release": len(old), "n_current": len(fresh)}
    told = f"{ratio:.1%} of the release set's median speed"
    if ratio <= 1 - max(certain, allowed):
        return Decision("FAIL", (f"slower: {told}",), figures)
    if ratio < 1 - allowed:
        hint = "interleaved pairs decide: tritium compare --base COMMIT"
        return Decision("INCONCLUSIVE", (f"{told}, within the noise between sessions; {hint}",), figures)
    if 100 * (ratio - 1) >= policy.too_good_percent:
        return Decision("ATTENTION", (f"{told}: check that it is plausible",), figures)
    return Decision("PASS", (told,), figures)


def judge_classic(baseline: float | None, current: float | None, policy: ClassicPolicy = CLASSIC) -> Decision:
    """One speed against another: FAIL below ``pass_percent``, ATTENTION from ``attention_percent`` on."""
    wrong = _unusable([baseline], [current], "speed")
    if wrong is not None:
        return wrong
    assert baseline is not None
    assert current is not None
    ratio = current / baseline
    told = f"{current:.4g} tok/s is {ratio:.1%} of {baseline:.4g}"
    figures = {"ratio": ratio, "baseline": baseline, "current": current}
    if 100 * ratio < policy.pass_percent:
        return Decision("FAIL", (f"{told}: below {policy.pass_percent:g}%",), figures)
    if 100 * ratio >= policy.attention_percent:
        return Decision("ATTENTION", (f"{told}: too good without a check that it is plausible",), figures)
    return Decision("PASS", (told,), figures)


def judge_envelope(
    *, backend: str, kernels: Sequence[str], compute_path: str, deterministic: bool, tokens_per_second: float | None
) -> Decision:
    """The speed of a receipt against the envelope that its back end and kernels belong to; above the band is ATTENTION."""
    ids = list(kernels)
    envelope = next((e for e in ENVELOPES if e.backend == backend.lower() and _has_all(ids, e.kernels)), None)
    if envelope is None:
        return Decision("NOT MEASURED", (f"no envelope for back end {backend} with these kernels",))
    wrong = []
    if compute_path != "real" or any(kernel.startswith("mock") for kernel in ids):
        wrong.append("not a run of real kernels")
    if envelope.backend == "cpu" and any(registry.is_gpu(kernel) for kernel in ids):
        wrong.append("a GPU kernel on the CPU")
    if envelope.backend == "cpu" and not deterministic:
        wrong.append("not deterministic")
    if wrong:
        return Decision("FAIL", tuple(f"{envelope.name}: {what}" for what in wrong))
    if not usable(tokens_per_second):
        return Decision("FAIL", (f"{envelope.name}: speed is no measurement",))
    assert tokens_per_second is not None
    figures = {"envelope": envelope.name, "least": envelope.least, "most": envelope.most, "current": tokens_per_second}
    told = f"{envelope.name}: {tokens_per_second:.4g} tok/s, band {envelope.least:.4g} to {envelope.most:.4g}"
    if envelope.is_validation_only:
        return Decision("ATTENTION", (f"{told}: for validation only, not for production",), figures)
    if tokens_per_second < envelope.least:
        return Decision("FAIL", (told,), figures)
    return Decision("ATTENTION" if tokens_per_second > envelope.most else "PASS", (told,), figures)


def _has_all(kernels: Sequence[str], names: Sequence[str]) -> bool:
    """Every name is a kernel, or begins one."""
    return all(any(kernel == name or kernel.startswith(name + "_") for kernel in kernels) for name in names)


def spread(values: Sequence[float]) -> float:
    """How far values scatter about their median, as a share of it: 1.4826 median absolute deviations."""
    middle = statistics.median(values)
    return 1.4826 * statistics.median(abs(v - middle) for v in values) / middle
