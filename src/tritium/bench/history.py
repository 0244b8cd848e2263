"""The history of receipts: JSON files are the truth, a SQLite index of them is rebuilt whenever it is missing or old.

A point of a trend is a session: receipts of one key and commit without a gap of an hour. Receipts inside a session share its
noise, so they are one sample of a change-point test, not many.
"""

from __future__ import annotations

import hashlib
import sqlite3
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

from tritium.bench.change_points import ChangePoint, change_points
from tritium.bench.figures import FIGURES, Key, Sample, read_sample
from tritium.errors import FormatError
from tritium.gates import read_policy
from tritium.receipts import schema

INDEX_VERSION = 1
SESSION_GAP_S = 3600
ROOTS = (Path("docs/baselines"), Path("ci"), Path("receipts"))
"""Where receipts lie if no folder is named."""


@dataclass(frozen=True, slots=True)
class Row:
    """A receipt of the index, ``timestamp`` in UTC.

    ``verdict``: "accepted", or why it does not count; the key's fields are empty without evidence.
    """

    path: str
    receipt_sha256: str
    timestamp: str
    commit_id: str
    is_dirty: bool
    verdict: str
    key_id: str
    os: str
    machine: str
    isa: str
    threads: int
    backend: str
    model: str
    model_name: str
    workload: str
    tokens_per_second: float | None
    prefill_ms: float | None
    cpu_ms_per_token: float | None
    rss_mb: float | None

    @property
    def seconds(self) -> float:
        """The moment it was written, in seconds since 1970."""
        return schema.parse_time(self.timestamp).timestamp()

    @property
    def is_accepted(self) -> bool:
        """True of a receipt that the judge accepts and that can be compared."""
        return self.verdict == "accepted" and bool(self.key_id)

    def figure(self, name: str) -> float | None:
        """A figure by its name. Errors: KeyError."""
        figures = dict(
            zip(FIGURES, (self.tokens_per_second, self.prefill_ms, self.cpu_ms_per_token, self.rss_mb), strict=True)
        )
        return figures[name]


_COLUMNS = tuple(field.name for field in fields(Row))
_CREATE = (
    "CREATE TABLE files (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER)",
    f"CREATE TABLE receipts ({', '.join(_COLUMNS)}, PRIMARY KEY (path))",
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT)",
)


def open_index(path: Path) -> sqlite3.Connection:
    """Open an index; one of another version or policy, or that is no database, begins empty. Errors: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    policy = read_policy().sha256
    try:
        connection = sqlite3.connect(path)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        facts = dict(connection.execute("SELECT name, value FROM facts")) if version == INDEX_VERSION else {}
        if facts.get("policy_sha256") == policy:
            return connection
        connection.close()
    except sqlite3.DatabaseError:
        pass
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    with connection:
        for statement in _CREATE:
            connection.execute(statement)
        connection.execute("INSERT INTO facts VALUES ('policy_sha256', ?)", (policy,))
        connection.execute(f"PRAGMA user_version = {INDEX_VERSION}")
    return connection


def refresh(connection: sqlite3.Connection, roots: Iterable[Path]) -> tuple[int, int]:
    """Bring the index up to what lies under ``roots``; the numbers of files that were read and forgotten.

    A file counts as unchanged while its size and time of change are. Errors: OSError.
    """
    present: dict[str, tuple[int, int]] = {}
    for root in roots:
        for file in [root] if root.is_file() else sorted(root.rglob("*.json")):
            status = file.stat()
            present[str(file.resolve())] = (status.st_size, status.st_mtime_ns)
    known = {path: (size, mtime) for path, size, mtime in connection.execute("SELECT path, size, mtime_ns FROM files")}
    stale = [path for path in known if present.get(path) != known[path]]
    unread = [path for path in present if known.get(path) != present[path]]
    with connection:
        for path in stale:
            connection.execute("DELETE FROM files WHERE path = ?", (path,))
            connection.execute("DELETE FROM receipts WHERE path = ?", (path,))
        marks = ", ".join("?" for _ in _COLUMNS)
        for path in unread:
            connection.execute("INSERT INTO files VALUES (?, ?, ?)", (path, *present[path]))
            row = _read(Path(path))
            if row is not None:
                connection.execute(f"INSERT INTO receipts VALUES ({marks})", astuple(row))
    return len(unread), len([path for path in stale if path not in present])


def _read(path: Path) -> Row | None:
    """The row of a file, None for JSON that is no receipt at all."""
    try:
        sample = read_sample(path)
    except FormatError:
        return None
    receipt = sample.receipt
    if "schema_version" not in receipt or "compute_path" not in receipt:
        return None
    return row_of(sample)


def row_of(sample: Sample) -> Row | None:
    """A receipt's row; None without a time, which no history has a place for."""
    receipt, key = sample.receipt, sample.key
    timestamp = receipt.get("timestamp")
    try:
        moment = schema.parse_time(str(timestamp)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except ValueError:
        return None
    build = receipt["evidence"]["build"] if key is not None else {}
    figures: dict[str, Any] = {name: figure(receipt) if key is not None else None for name, figure in FIGURES.items()}
    model = receipt.get("model")
    name = model.get("path") if isinstance(model, dict) else None
    known: dict[str, Any] = asdict(key) if key is not None else {**{f.name: "" for f in fields(Key)}, "threads": 0}
    return Row(
        path=str(sample.path),
        receipt_sha256=sample.verdict.receipt_sha256,
        timestamp=moment,
        commit_id=build.get("commit", ""),
        is_dirty=bool(build.get("dirty", False)),
        verdict=sample.problem or ("accepted" if key is not None else "no evidence"),
        key_id=key.id if key is not None else "",
        model_name=Path(str(name)).name if name else "",
        **known,
        **figures,
    )


def index_path(cache: Path, roots: Sequence[Path]) -> Path:
    """Where the index of these folders lies under the cache folder."""
    text = "\n".join(sorted(str(root.resolve()) for root in roots))
    return cache / "history" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.sqlite"


@dataclass(frozen=True, slots=True)
class Filters:
    """What of the history is looked at; None is everything. Texts match a part, hashes and moments a beginning."""

    model: str | None = None
    machine: str | None = None
    isa: str | None = None
    threads: int | None = None
    backend: str | None = None
    commit: str | None = None
    key: str | None = None
    since: str | None = None
    until: str | None = None
    accepted_only: bool = True

    def where(self) -> tuple[str, list[Any]]:
        """A condition of SQL and its values."""
        found: list[tuple[str, Any]] = []
        if self.model is not None:
            found += [("(instr(model_name, ?) OR substr(model, 1, length(?)) = ?)", self.model)]
        for column, text in (("machine", self.machine), ("isa", self.isa)):
            if text is not None:
                found.append((f"instr(lower({column}), lower(?))", text))
        for column, exact in (("threads", self.threads), ("backend", self.backend)):
            if exact is not None:
                found.append((f"{column} = ?", exact))
        for column, start in (("commit_id", self.commit), ("key_id", self.key)):
            if start is not None:
                found.append((f"substr({column}, 1, length(?)) = ?", start))
        if self.since is not None:
            found.append(("timestamp >= ?", self.since))
        if self.until is not None:
            found.append(("substr(timestamp, 1, length(?)) <= ?", self.until))
        if self.accepted_only:
            found.append(("verdict = ? AND key_id <> ''", "accepted"))
        conditions = [condition for condition, _ in found]
        values = [value for condition, value in found for _ in range(condition.count("?"))]
        return " AND ".join(conditions) or "1", values


def query(connection: sqlite3.Connection, filters: Filters) -> list[Row]:
    """The rows that pass, the oldest first."""
    condition, values = filters.where()
    found = connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM receipts WHERE {condition}", values)
    rows = [Row(*values) for values in found]
    return sorted((_typed(row) for row in rows), key=lambda row: (row.seconds, row.path))


def _typed(row: Row) -> Row:
    """SQLite has no booleans."""
    return Row(**{**asdict(row), "is_dirty": bool(row.is_dirty)})


@dataclass(frozen=True, slots=True)
class Session:
    """Receipts of one key and commit, none more than an hour after the one before."""

    rows: tuple[Row, ...]

    @property
    def seconds(self) -> float:
        """When it began."""
        return self.rows[0].seconds

    @property
    def label(self) -> str:
        """Its commit, else its day."""
        first = self.rows[0]
        return (first.commit_id[:8] + ("+" if first.is_dirty else "")) if first.commit_id else first.timestamp[:10]

    def values(self, name: str) -> list[float]:
        """The figures of its receipts that have one."""
        return [value for row in self.rows if (value := row.figure(name)) is not None]


@dataclass(frozen=True, slots=True)
class Trend:
    """One figure of one key over the sessions that have it: medians, and where their level changed."""

    key: Key
    model_name: str
    metric: str
    sessions: tuple[Session, ...]
    medians: tuple[float, ...]
    points: tuple[ChangePoint, ...]


def sessions(rows: Iterable[Row]) -> Iterator[Session]:
    """Group the rows of one key, given in order of time."""
    group: list[Row] = []
    for row in rows:
        if group:
            last = group[-1]
            same = (row.commit_id, row.is_dirty) == (last.commit_id, last.is_dirty)
            if not same or row.seconds - last.seconds > SESSION_GAP_S:
                yield Session(tuple(group))
                group = []
        group.append(row)
    if group:
        yield Session(tuple(group))


def trends(rows: Iterable[Row], metric: str) -> list[Trend]:
    """The trends of all keys with evidence, those with most sessions first."""
    by_key: dict[str, list[Row]] = {}
    for row in rows:
        if row.key_id:
            by_key.setdefault(row.key_id, []).append(row)
    found = []
    for group in by_key.values():
        every = tuple(session for session in sessions(group) if session.values(metric))
        if not every:
            continue
        medians = tuple(statistics.median(session.values(metric)) for session in every)
        first = group[0]
        key = Key(**{field.name: getattr(first, field.name) for field in fields(Key)})
        found.append(Trend(key, group[-1].model_name, metric, every, medians, change_points(medians)))
    return sorted(found, key=lambda trend: (-len(trend.sessions), trend.key.slug))
