"""A receipt that follows the schema, with what several gates work out of it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from tritium.receipts import registry

LINEAR, ATTENTION, HEAD = "linear", "attention", "logits_projection"
INT8 = "_int8"  # ends the name of an op that works on a cache of int8
SCREENED_HEAD = ("screen", "threshold", "refine", "rescore")


def ids_hash(ids: Sequence[int]) -> str:
    """SHA-256 of token ids as little-endian u32."""
    return hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest()


def outputs_hash(digests: Sequence[str | None]) -> str | None:
    """A single hash as it is; of several, SHA-256 of their bytes in order. None where one is missing."""
    if len(digests) == 1 or None in digests:
        return digests[0] if len(digests) == 1 else None
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests if digest)).hexdigest()


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens of one sequence in a pass; ``is_due`` where the token after them is chosen."""

    sequence: int
    position: int
    n_tokens: int
    is_due: bool

    @property
    def n_seen(self) -> int:
        """Keys that its tokens look at: Σ (pos + 1)."""
        return self.n_tokens * self.position + self.n_tokens * (self.n_tokens + 1) // 2


@dataclass(frozen=True, slots=True)
class StepWork:
    """A ledger row: block −1 stands outside the layers, ``op`` is "unknown" for an id that no registry has, and does not tell
    how keys and values are kept."""

    block: int
    label: str
    kernel: str
    op: str
    calls: int
    macs: int
    macs_skipped: int
    bytes: int
    ns: int


class Facts:
    """``data`` is the parsed receipt, ``evidence`` its evidence or None. Everything else is worked out when it is asked for."""

    def __init__(self, data: Mapping[str, Any], now: datetime) -> None:
        self.data, self.now = data, now
        self.evidence: Mapping[str, Any] | None = data.get("evidence")

    @property
    def tokens_per_second(self) -> float | None:
        """The speed that is claimed: flat, or in ``performance_baseline`` as older receipts have it."""
        flat = self.data.get("tokens_per_second")
        if flat is not None:
            return float(flat)
        nested = self.data.get("performance_baseline", {}).get("tokens_per_second")
        return None if nested is None else float(nested)

    @cached_property
    def run(self) -> Mapping[str, Any]:
        """The recorded run. Errors: KeyError without evidence."""
        return self._part("run")

    @cached_property
    def sequences(self) -> tuple[Mapping[str, Any], ...]:
        """What was decoded together: the run's own sequence, and the others of a batch."""
        others = self._part("batch")["others"] if self.evidence and "batch" in self.evidence else ()
        return (self.run, *others)

    @cached_property
    def n_ids(self) -> int:
        """Tokens of all sequences."""
        return sum(len(each["token_ids"]) for each in self.sequences)

    @cached_property
    def passes(self) -> tuple[tuple[Part, ...], ...]:
        """What each pass forwarded of which sequence. Errors: IndexError for a sequence that is not there."""
        return tuple(tuple(self._parts(p)) for p in self.run["passes"])

    def _parts(self, p: Mapping[str, Any]) -> Iterator[Part]:
        for sequence, position, n in p.get("parts", [[0, p["position"], p["n_tokens"]]]):
            yield Part(sequence, position, n, position + n >= self.sequences[sequence]["n_prompt"])

    @cached_property
    def n_seen(self) -> int:
        """Keys that all forwarded tokens looked at."""
        return sum(part.n_seen for parts in self.passes for part in parts)

    @cached_property
    def last_ns(self) -> int:
        """When the last token was chosen."""
        return max(int(each["token_ns"][-1]) for each in self.sequences)

    @cached_property
    def first_ns(self) -> int:
        """When every sequence had its first token."""
        return max(int(each["token_ns"][0]) for each in self.sequences)

    @cached_property
    def n_decoded(self) -> int:
        """Tokens that were chosen after that."""
        return sum(t > self.first_ns for each in self.sequences for t in each["token_ns"])

    @cached_property
    def model(self) -> Mapping[str, Any]:
        """The model's part."""
        return self._part("model")

    @cached_property
    def plan(self) -> Mapping[str, Any]:
        """The plan's part."""
        return self._part("plan")

    @cached_property
    def ledger(self) -> Mapping[str, Any]:
        """The ledger's part."""
        return self._part("ledger")

    @cached_property
    def machine(self) -> Mapping[str, Any]:
        """The machine's part."""
        return self._part("machine")

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The model's hyperparameters."""
        return self._part("model")["config"]  # type: ignore[no-any-return]

    @cached_property
    def shapes(self) -> Mapping[str, list[int]]:
        """Shapes of the model's tensors by name."""
        return {tensor["name"]: tensor["shape"] for tensor in self.model["tensors"]}

    @cached_property
    def steps(self) -> tuple[StepWork, ...]:
        """The ledger's rows."""
        out = []
        for row in self.ledger["steps"]:
            block, dot, label = row["step"].partition(".")
            entry = registry.find(row["kernel"])
            work = (row[name] for name in ("calls", "macs", "macs_skipped", "bytes", "ns"))
            is_layer = bool(dot) and block.isdigit()
            op = entry.op.removesuffix(INT8) if entry is not None else "unknown"
            out.append(
                StepWork(int(block) if is_layer else -1, label if is_layer else row["step"], row["kernel"], op, *work)
            )
        return tuple(out)

    @cached_property
    def head_name(self) -> str:
        """The tensor that projects to logits."""
        return "token_embd.weight" if self.config["tied_head"] else "output.weight"

    @cached_property
    def n_forwarded(self) -> int:
        """Positions that the passes forwarded."""
        return sum(p["n_tokens"] for p in self.run["passes"])

    @cached_property
    def n_outputs(self) -> int:
        """Rows of logits that the passes computed."""
        return sum(p["n_outputs"] for p in self.run["passes"])

    @cached_property
    def linear_bytes(self) -> int:
        """Bytes of linear weights that one pass reads at most, as counted."""
        return self._linear_bytes(self.steps)

    @cached_property
    def decode_bytes(self) -> int:
        """Bytes of linear weights that a pass of one token reads, as counted: what is left of them where work is skipped."""
        sparse = {(s.block, s.label) for s in self.steps if s.macs_skipped}
        return self._linear_bytes(s for s in self.steps if (s.block, s.label) not in sparse or "_gemv_" in s.kernel)

    def _linear_bytes(self, steps: Iterable[StepWork]) -> int:
        best: dict[tuple[int, str], int] = {}
        for s in steps:
            if s.op == LINEAR and s.calls:
                best[s.block, s.label] = max(best.get((s.block, s.label), 0), s.bytes // s.calls)
        return sum(best.values())

    @cached_property
    def head_bytes(self) -> int:
        """Bytes of the head that a pass with outputs reads at least, as counted: all of it, or the plane that screens it."""
        planes = [s.bytes // s.calls for s in self.steps if s.op == "screen" and s.calls]
        if planes:
            return min(planes)
        return max((s.bytes // s.calls for s in self.steps if s.op == HEAD and s.calls), default=0)

    def cache_bytes(self, n_positions: int) -> int:
        """Bytes of keys and values of so many positions in all layers."""
        return int(2 * self.config["n_layers"] * self.config["n_kv_heads"] * self.vector_bytes * n_positions)

    @cached_property
    def vector_bytes(self) -> int:
        """Bytes of one key or value of a head: float16, or where the attention's kernel says so int8 with a scale."""
        ops = {entry.op for row in self.ledger["steps"] if (entry := registry.find(row["kernel"]))}
        width: int = self.config["head_dim"]
        return width + 4 if ATTENTION + INT8 in ops else 2 * width

    def pass_bytes(self, number: int) -> int:
        """Unique bytes that a pass touches: body, head if it gave logits, keys and values up to each sequence's last position.

        What sequences took from the cache of others may be the same: only the longest of these counts.
        """
        one, parts = self.run["passes"][number], self.passes[number]
        head = self.head_bytes if one["n_outputs"] else 0
        linear = self.decode_bytes if one["n_tokens"] == 1 else self.linear_bytes
        cached = [self.sequences[part.sequence]["n_cached"] for part in parts]
        own = sum(part.position + part.n_tokens - n for part, n in zip(parts, cached, strict=True))
        return linear + head + self.cache_bytes(own + max(cached))

    def pass_macs(self, one: Mapping[str, int]) -> int:
        """Multiply-accumulates of a pass in its linear layers."""
        executed = sum(s.macs for s in self.steps if s.op == LINEAR)
        return executed * one["n_tokens"] // max(self.n_forwarded, 1)

    def _part(self, name: str) -> Mapping[str, Any]:
        if self.evidence is None:
            raise KeyError(name)
        part: Mapping[str, Any] = self.evidence[name]
        return part
