"""Flame graphs as data: stacks of frames with the time spent in them, from the executor's own counters or from a sampler."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tritium.bench.op_table import ops_of
from tritium.errors import FormatError
from tritium.ir import Plan
from tritium.ops import SCREENED_HEAD, STAGES
from tritium.types import Pass, StepCount

Kind = Literal["frame", "linear", "attention", "norm", "elementwise", "head", "embed", "sample", "between"]

KINDS: dict[str, Kind] = {
    "linear": "linear",
    "attention": "attention",
    "rope_kv": "attention",
    "rmsnorm": "norm",
    "rmsnorm_quantize": "norm",
    "quantize": "norm",
    "relu2_mul": "elementwise",
    "silu_mul": "elementwise",
    "add": "elementwise",
    "output_rows": "elementwise",
    "logits_projection": "head",
    **dict.fromkeys(SCREENED_HEAD, "head"),
    "select": "head",
    "embedding": "embed",
}
"""Op → kind of its frames."""

LEGEND: dict[Kind, str] = {
    "linear": "ternary matrices",
    "attention": "attention",
    "norm": "norms, quantization",
    "elementwise": "elementwise",
    "head": "output head",
    "embed": "embedding",
    "sample": "outside the native core",
    "between": "between kernels",
    "frame": "grouping",
}
BETWEEN = "between kernels"
CALL = "call into the native core"
REST = "scheduler, sampler, text"


@dataclass(frozen=True, slots=True)
class Stack:
    """Time spent in the last of ``names``, which the ones before it led to; what a kernel did in it."""

    names: tuple[str, ...]
    ns: int
    kind: Kind = "frame"
    calls: int = 0
    macs: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Frame:
    """A frame with everything above it. ``ns`` includes what the children took; ``kind`` "frame" groups several kinds."""

    name: str
    kind: Kind | None = None
    ns: int = 0
    own_ns: int = 0
    calls: int = 0
    macs: int = 0
    bytes: int = 0
    children: dict[str, Frame] = field(default_factory=dict)

    def add(self, stack: Stack) -> None:
        """Let the frame and those above it take the stack's time; the frame itself is the stack's first name."""
        frame = self
        for name in (None, *stack.names[1:]):
            if name is not None:
                frame = frame.children.setdefault(name, Frame(name))
            frame.kind = stack.kind if frame.kind in (None, stack.kind) else "frame"
            frame.ns += stack.ns
            frame.calls += stack.calls
            frame.macs += stack.macs
            frame.bytes += stack.bytes
        frame.own_ns += stack.ns

    @property
    def depth(self) -> int:
        """Frames on top of one another, this one included."""
        return 1 + max((child.depth for child in self.children.values()), default=0)


def tree(stacks: Iterable[Stack], root: str) -> Frame:
    """The stacks put together; all of them begin with ``root``."""
    frame = Frame(root)
    for stack in stacks:
        frame.add(stack)
    return frame


def stacks_of(passes: Sequence[Pass], plan: Plan, phase: str, root: str) -> list[Stack]:
    """The stacks of some steps: root, phase, stage, part of a layer, op, kernel, layer. Their times add up to the steps'.

    What passed inside the native core outside of any kernel is "between kernels"; what passed outside of it is "sample".
    """
    ops = ops_of(plan)
    stacks = []
    for done in passes:
        counted = 0
        for c in done.trace.counts:
            if c.calls:
                stacks.append(_stack(c, ops[c.step, c.kernel], (root, phase)))
                counted += c.ns
        inside = max(done.trace.wall_ns, counted)
        stacks.append(Stack((root, phase, "forward", BETWEEN), inside - counted, "between"))
        stacks.append(Stack((root, phase, "sample", CALL), max(done.step_ns - inside, 0), "sample"))
        stacks.append(Stack((root, phase, "sample", REST), done.rest_ns, "sample"))
    return [stack for stack in stacks if stack.ns]


def _stack(c: StepCount, op: str, below: tuple[str, ...]) -> Stack:
    block, dot, label = c.step.partition(".")
    in_layer = bool(dot) and block.isdigit()
    if not in_layer:
        block, label = "", c.step
    stage = STAGES.get(op, "forward")
    names = [*below, stage]
    part = _part(label, op)
    if part is not None and in_layer:
        names.append(part)
    names += [label if label == op else f"{label} · {op}", c.kernel]
    if in_layer:
        names.append(f"layer {int(block)}")
    return Stack(tuple(names), c.ns, KINDS.get(op, "elementwise"), c.calls, c.macs, c.bytes)


def _part(label: str, op: str) -> str | None:
    if label.startswith("attn") or op in ("attention", "rope_kv"):
        return "attention"
    if label.startswith("ffn") or op in ("relu2_mul", "silu_mul"):
        return "feed-forward"
    return None


def collapsed(stacks: Iterable[Stack]) -> str:
    """The stacks as text that other tools read: names joined by semicolons, a space, nanoseconds; equal ones merged."""
    sums: dict[tuple[str, ...], int] = {}
    for stack in stacks:
        sums[stack.names] = sums.get(stack.names, 0) + stack.ns
    return "".join(f"{';'.join(names)} {n}\n" for names, n in sums.items())


def parse_collapsed(text: str, where: str) -> list[Stack]:
    """Read collapsed stacks. Errors: FormatError for a line without a number, or for none at all."""
    stacks = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        names, _, count = line.rpartition(" ")
        if not names or not count.isascii() or not count.isdigit():
            raise FormatError(
                "collapsed stacks", where=f"{where}, line {number}", expected="frame;frame;frame number", got=line[:60]
            )
        stacks.append(Stack(tuple(names.split(";")), int(count)))
    if not stacks:
        raise FormatError("collapsed stacks", where=where, expected="at least one line", got="none")
    return stacks
