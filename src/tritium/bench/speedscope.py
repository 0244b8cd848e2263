"""Flame graphs in the file format of speedscope: what the time went to, and the steps one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import tritium
from tritium.bench.flame import Stack

SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def document(name: str, stacks: Sequence[Stack], timeline: Iterable[Sequence[Stack]]) -> dict[str, Any]:
    """Two profiles over one list of frames.

    The first is weighed stacks. The second has the stacks of each step laid end to end in the plan's order: every length is true,
    but what passed between two kernels is gathered at a step's end.
    """
    index: dict[str, int] = {}

    def number(names: Iterable[str]) -> list[int]:
        return [index.setdefault(frame, len(index)) for frame in names]

    merged: dict[tuple[str, ...], int] = {}
    for stack in stacks:
        merged[stack.names] = merged.get(stack.names, 0) + stack.ns
    total = sum(merged.values())
    sampled = {
        "type": "sampled",
        "name": name,
        "unit": "nanoseconds",
        "startValue": 0,
        "endValue": total,
        "samples": [number(names) for names in merged],
        "weights": list(merged.values()),
    }
    events: list[dict[str, Any]] = []
    at = 0
    opened: list[int] = []
    for step in timeline:
        for stack in step:
            frames = number(stack.names)
            same = next((i for i, (a, b) in enumerate(zip(opened, frames, strict=False)) if a != b), None)
            same = min(len(opened), len(frames)) if same is None else same
            events += [{"type": "C", "frame": frame, "at": at} for frame in reversed(opened[same:])]
            events += [{"type": "O", "frame": frame, "at": at} for frame in frames[same:]]
            opened = frames
            at += stack.ns
    events += [{"type": "C", "frame": frame, "at": at} for frame in reversed(opened)]
    evented = {
        "type": "evented",
        "name": f"{name}, in order",
        "unit": "nanoseconds",
        "startValue": 0,
        "endValue": at,
        "events": events,
    }
    return {
        "$schema": SCHEMA,
        "name": name,
        "exporter": f"tritium {tritium.__version__}",
        "activeProfileIndex": 0,
        "shared": {"frames": [{"name": frame} for frame in index]},
        "profiles": [sampled, evented],
    }
