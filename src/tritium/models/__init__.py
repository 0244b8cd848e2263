"""Architectures: one file each, found by the names that it lists in ``ARCHITECTURES``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from tritium.errors import FormatError, UnsupportedError
from tritium.ir import Graph
from tritium.types import TensorInfo


def architectures() -> dict[str, ModuleType]:
    """Architecture name → the module that describes it."""
    found: dict[str, ModuleType] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for name in getattr(module, "ARCHITECTURES", ()):
            found[name] = module
    return found


def build_graph(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Graph:
    """Describe the forward pass of a model file.

    Errors: FormatError names a missing key or tensor, UnsupportedError an unknown architecture or feature.
    """
    name = metadata.get("general.architecture")
    if not isinstance(name, str):
        raise FormatError("missing key", where="general.architecture", expected="a string", got=name)
    known = architectures()
    if name not in known:
        raise UnsupportedError(
            "unknown architecture", where="general.architecture", expected=", ".join(sorted(known)), got=name
        )
    graph: Graph = known[name].graph(metadata, tensors)
    return graph
