"""Tritium runs ternary ("1.58-bit") language models, with the same bits on every CPU.

    with tritium.load("demo") as model:
        print(model.generate("ROMEO:", max_tokens=64).text)

Importing the package imports nothing else: every public name is looked up when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tritium.engine.generation import GenerationResult as GenerationResult
    from tritium.engine.model import Model as Model
    from tritium.engine.model import load as load
    from tritium.engine.sampling import SamplingParams as SamplingParams
    from tritium.engine.tokenizer import Tokenizer as Tokenizer
    from tritium.errors import FormatError as FormatError
    from tritium.errors import GateError as GateError
    from tritium.errors import NumericsError as NumericsError
    from tritium.errors import OutOfMemoryError as OutOfMemoryError
    from tritium.errors import ShapeError as ShapeError
    from tritium.errors import TritiumError as TritiumError
    from tritium.errors import UnsupportedError as UnsupportedError

__version__ = "0.1.0"

_HOMES = {
    "FormatError": "errors",
    "GateError": "errors",
    "GenerationResult": "engine.generation",
    "Model": "engine.model",
    "NumericsError": "errors",
    "OutOfMemoryError": "errors",
    "SamplingParams": "engine.sampling",
    "ShapeError": "errors",
    "Tokenizer": "engine.tokenizer",
    "TritiumError": "errors",
    "UnsupportedError": "errors",
    "load": "engine.model",
}

__all__ = [
    "FormatError",
    "GateError",
    "GenerationResult",
    "Model",
    "NumericsError",
    "OutOfMemoryError",
    "SamplingParams",
    "ShapeError",
    "Tokenizer",
    "TritiumError",
    "UnsupportedError",
    "__version__",
    "load",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'tritium' has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(f"tritium.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
