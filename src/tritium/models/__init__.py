"""Architectures: one file each, found by the names that it lists in ``ARCHITECTURES``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from tritium.errors import FormatError, UnsupportedError
from tritium.ir import Graph, Node
from tritium.types import TensorInfo


class ModelFile(Protocol):
    """What a model file says of itself, and of each ternary tensor the scale that all its weights share, if they do."""

    @property
    def metadata(self) -> Mapping[str, Any]: ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def scale(self, name: str) -> np.float32 | None: ...


def architectures() -> dict[str, ModuleType]:
    """Architecture name → the module that describes it."""
    found: dict[str, ModuleType] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for name in getattr(module, "ARCHITECTURES", ()):
            found[name] = module
    return found


def build_graph(file: ModelFile) -> Graph:
    """Describe the forward pass of a model file.

    A linear layer has a scale a group where its tensor's groups differ, else one scale, whatever the layout.

    Errors: FormatError names a missing key or tensor or a scale that is not finite, UnsupportedError an unknown architecture
    or feature.
    """
    name = file.metadata.get("general.architecture")
    if not isinstance(name, str):
        raise FormatError("missing key", where="general.architecture", expected="a string", got=name)
    known = architectures()
    if name not in known:
        raise UnsupportedError(
            "unknown architecture", where="general.architecture", expected=", ".join(sorted(known)), got=name
        )
    graph: Graph = known[name].graph(file.metadata, file.tensors)
    return replace(graph, nodes=tuple(_one_scale(node, file) for node in graph.nodes))


def _one_scale(node: Node, file: ModelFile) -> Node:
    if node.op != "linear" or not node.attrs["group"] or file.scale(node.weights[0]) is None:
        return node
    return replace(node, attrs={**node.attrs, "group": 0})
