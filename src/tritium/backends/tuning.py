"""How long products take in different layouts on this machine: timed once, kept in a file of the cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tritium.backends import KernelRow
from tritium.errors import FormatError
from tritium.ir import Buffer, Choice, Operand, Plan, Resident, Step
from tritium.receipts import strict_json
from tritium.receipts.files import write_text

FOLDER = "tuning"
"""Of the cache folder."""
MAX_FILE_BYTES = 1 << 20

Times = Mapping[str, float]
"""Layout → nanoseconds of one token's product."""
NAMES = {"i2s": "2bit", "tq1": "1.6bit"}
"""Layout → what a caller asks for it by; the first takes more bytes."""
LEAST_GAIN = 1.03
"""What takes more bytes must be quicker by this factor: times wander by as much, and all threads share the bandwidth."""
Measure = Callable[[int, int, tuple[str, ...]], Times]
"""What times the product by a matrix (n, k) in several layouts."""


def quicker(times: Times) -> str:
    """The layout to take."""
    plain = next(iter(NAMES))
    return min(times, key=lambda layout: times[layout] * (LEAST_GAIN if layout == plain else 1))


def middle_turn(turns: Sequence[dict[str, float]]) -> dict[str, float]:
    """The turn whose first time, divided by its last, is the median of all turns; of an even number the greater one."""

    def ratio(turn: dict[str, float]) -> float:
        first, *_, last = turn.values()
        return first / last

    return sorted(turns, key=ratio)[len(turns) // 2]


def described(known: Mapping[str, Times]) -> Iterator[str]:
    """A line a shape: what one token's product takes in each layout, and which one is taken."""
    for shape, times in known.items():
        n, _, k = shape.partition("x")
        listed = ", ".join(f"{NAMES.get(layout, layout)} {ns / 1e3:.1f} µs" for layout, ns in times.items())
        yield f"{k} → {n}: {listed}: {NAMES.get(quicker(times), '')}"


class Tuner:
    """Times of products, from a file where they are known, else from ``measure``.

    ``identity`` says what times depend on beside the shape: processor, instruction sets, threads, versions. A file of another
    identity, or that is not as one should be, is not read; one that cannot be written is done without.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str | int], measure: Measure) -> None:
        self.identity = dict(identity)
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        self.path = folder / f"{digest[:32]}.json"
        self._measure = measure
        self._known = self._read()

    def times(self, n: int, k: int, layouts: tuple[str, ...]) -> Times:
        """Nanoseconds of one token's product by a matrix (n, k) in each of the layouts."""
        name = f"{n}x{k}"
        known = self._known.get(name, {})
        if any(layout not in known for layout in layouts):
            known = {layout: round(ns, 1) for layout, ns in self._measure(n, k, layouts).items()}
            self._known[name] = known
            text = json.dumps({"identity": self.identity, "ns": self._known}, indent=1, sort_keys=True)
            with contextlib.suppress(OSError):
                write_text(self.path, text + "\n")
        return {layout: known[layout] for layout in layouts}

    @property
    def known(self) -> Mapping[str, Times]:
        """Shape, as n × k with an x → times."""
        return self._known

    def _read(self) -> dict[str, dict[str, float]]:
        try:
            with self.path.open("rb") as file:
                document = strict_json.loads(file.read(MAX_FILE_BYTES))
        except (OSError, FormatError):
            return {}
        if not isinstance(document, dict) or document.get("identity") != self.identity:
            return {}
        shapes = document.get("ns")
        if not isinstance(shapes, dict) or not all(_are_times(times) for times in shapes.values()):
            return {}
        return shapes


def _are_times(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(ns, (int, float)) and not isinstance(ns, bool) and math.isfinite(ns) and ns > 0
        for ns in value.values()
    )


def product_plan(n: int, k: int, layout: str, rows: Sequence[KernelRow], nbytes: int, n_steps: int) -> Plan:
    """A plan of products of one token by ``n_steps`` matrices (n, k), resident in ``nbytes`` each, for which ``rows`` are."""
    padded = -(-n // 16) * 16
    wide, out_at = -(-k // 64) * 64, -(-k // 64) * 64 + 64
    buffers = (
        Buffer("q", "i8", "tokens", wide, 0), Buffer("scale", "f32", "tokens", 16, wide),
        Buffer("y", "f32", "tokens", padded, out_at),
    )  # fmt: skip
    attrs = {"k": k, "n": n, "group": 0, "act_bits": 8, "accumulate": 0}
    places = tuple(Operand(i, 0) for i in range(3))
    return Plan(
        architecture="", backend="cpu", profile="", graph_hash="", max_tokens=1, max_outputs=1, max_context=1, vocab_size=1,
        n_kv_layers=0, n_kv_heads=0, head_dim=0, kv_block=0, arena_bytes=out_at + 4 * padded, rope_theta=0.0, rope_factors=(),
        buffers=buffers,
        residents=tuple(Resident((f"w{i}",), layout, padded, k, nbytes) for i in range(n_steps)),
        steps=tuple(
            Step("linear", "linear", i, places[:2], places[2:], attrs, tuple(Choice(r.id, r.t_min, r.t_max, (i,)) for r in rows))
            for i in range(n_steps)
        ),
    )  # fmt: skip
