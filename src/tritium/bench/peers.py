"""Other engines as peers: what they must offer to be compared with, and how one is started."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tritium.bench.walk import Values, Variation
from tritium.errors import ShapeError, UnsupportedError
from tritium.formats.gguf import GGUFFile
from tritium.ir import Graph
from tritium.numerics import F32

PEERS: Mapping[str, tuple[str, str]] = {
    "transformers": ("tritium.bench.peer_transformers", "crossval"),
    "llama-cpp": ("tritium.bench.peer_llama_cpp", "crossval-llama"),
}
"""Peer → its module, and the extra that installs what the module imports."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that a peer is known to compute otherwise, and the variation of our forward pass that computes it so."""

    name: str
    text: str
    variation: Variation


@dataclass(slots=True)
class Capture:
    """What a peer computed for T tokens.

    ``values``: its activations by the graph's value names, (T, width), in our order of features; codes of linear inputs and their
    scales too where the peer shows them. ``differences``: those that apply to this run.
    """

    logits: F32
    values: Values = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()


class Peer(Protocol):
    """Another engine holding the model's weights.

    ``settings`` describes how it runs. ``is_float32``: its arithmetic between the int8 products is float32, so that ops must
    agree to ``OP_TOLERANCE``.
    """

    name: str
    version: str
    settings: Mapping[str, str]
    is_float32: bool

    def run(self, ids: NDArray[np.int32], *, capture: bool) -> Capture: ...

    def in_float32(self, ids: NDArray[np.int32]) -> F32 | None:
        """The same weights' logits computed in float32, of a peer that is not float32; else None."""
        ...

    def close(self) -> None: ...


def open_peer(
    name: str, graph: Graph, file: GGUFFile, *, variant: str | None = None, threads: int | None = None
) -> Peer:
    """Start a peer with the weights of an open model file.

    ``variant``: one of the peer module's ``VARIANTS``, the first where None.
    Errors: UnsupportedError if the peer is not installed or cannot hold the model; ShapeError for an unknown variant.
    """
    module_name, extra = PEERS[name]
    try:
        module: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise UnsupportedError(
            f"{name} is not installed", got=str(error), hint=f"Install it with: pip install 'tritium[{extra}]'"
        ) from error
    variants: Mapping[str, str] = module.VARIANTS
    chosen = next(iter(variants)) if variant is None else variant
    if chosen not in variants:
        raise ShapeError(f"unknown variant of {name}", expected=" or ".join(variants), got=chosen)
    peer: Peer = module.open_peer(graph, file, chosen, threads)
    return peer
