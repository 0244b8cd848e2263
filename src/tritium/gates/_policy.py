"""The policy of a judge: thresholds and the table of claims, from a TOML file whose hash stands in the verdict."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritium.errors import FormatError
from tritium.gates._check import LEVELS

DEFAULT = Path(__file__).with_name("policy.toml")


@dataclass(frozen=True, slots=True)
class Policy:
    """Thresholds by section and name; ``claims``: claim → level → ids of checks ("*" is all of that level)."""

    sha256: str
    thresholds: Mapping[str, Mapping[str, float]]
    isas: Mapping[str, Mapping[str, Any]]
    cpus: tuple[tuple[re.Pattern[str], float], ...]
    claims: Mapping[str, Mapping[str, tuple[str, ...]]]
    profiles: Mapping[str, str]
    caches: Mapping[int, tuple[int, int, int]]

    def get(self, section: str, name: str) -> float:
        """A threshold."""
        return self.thresholds[section][name]

    def cpu_gb_per_s(self, cpu: str | None) -> float | None:
        """The read bandwidth of a machine with this CPU, or None if the table does not know it."""
        return next((speed for pattern, speed in self.cpus if cpu and pattern.search(cpu)), None)


def read_policy(path: Path | None = None) -> Policy:
    """Read a policy. One that leaves a threshold out does not fall back to another's.

    Errors: OSError; FormatError for text that is no TOML, or lacks what the shipped policy has.
    """
    place = path or DEFAULT
    data = place.read_bytes()
    try:
        tree = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FormatError("policy", where=str(place), got=str(error)) from None
    if path is not None:
        _compare(tree, tomllib.loads(DEFAULT.read_text(encoding="utf-8")), str(place))
    sections = ("arithmetic", "physics", "accounting", "publishing", "replay", "challenge", "binding")
    claims = {name: tree["claims"][name] for name in tree["claims"]["order"]}
    return Policy(
        hashlib.sha256(data).hexdigest(),
        {section: tree[section] for section in sections},
        tree["isa"],
        tuple((re.compile(row["pattern"]), float(row["gb_per_s"])) for row in tree.get("cpu", ())),
        {name: {level: tuple(table.get(level, ())) for level in LEVELS} for name, table in claims.items()},
        tree["profiles"],
        {int(level): (least, most, shared) for level, (least, most, shared) in tree["caches"].items()},
    )


def _compare(tree: Any, shipped: Any, where: str) -> None:
    """Every table of the shipped policy, with values of the same kind."""
    for name, value in shipped.items():
        got = tree.get(name)
        number = isinstance(value, (int, float)) and isinstance(got, (int, float)) and not isinstance(got, bool)
        if not number and not isinstance(got, type(value)):
            raise FormatError("policy", where=f"{where}: {name}", expected=type(value).__name__, got=repr(got))
        if isinstance(value, dict):
            _compare(got, value, f"{where}: {name}")
