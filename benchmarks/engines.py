"""The engines under test, each in a process of its own that answers one request after another in lines of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Contestant:
    """An engine with a model.

    ``interpreter`` None is this one; ``environment`` is added to the process's; ``options`` go to Tritium's ``load``;
    ``most_decoded`` bounds the tokens that a slow engine decodes a round.
    """

    name: str
    engine: str
    path: Path
    head: str
    is_peer: bool = False
    interpreter: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    most_decoded: int = 1 << 20

    def start(self, n_threads: int, log: Path) -> Engine:
        """Start its process and load the model."""
        return Engine(self, n_threads, log)


class Engine:
    """A running contestant; a context manager. ``description`` is what it says of itself once loaded.

    ``seed`` is that of the last prompt of its own that it was given, 0 before one.

    Errors: RuntimeError with the end of its log if it fails.
    """

    def __init__(self, contestant: Contestant, n_threads: int, log: Path) -> None:
        self.contestant, self._log = contestant, log
        self.seed = 0
        script = HERE / f"engine_{contestant.engine}.py"
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [
                    str(contestant.interpreter or sys.executable),
                    str(script),
                    str(contestant.path),
                    str(n_threads),
                    json.dumps(dict(contestant.options)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                env={**os.environ, **contestant.environment},
            )
        self.description = self._read()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """One request and its answer."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the log tells why
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
            raise RuntimeError(f"{self.contestant.name}: {lines[-1] if lines else 'no answer'} ({self._log})")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End its input, and the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
