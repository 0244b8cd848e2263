"""The index follows the files, trends follow the index, and the terminal shows them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from receipt_forgery import bare
from receipt_history import START, commit_of, retold, write, write_history
from tritium.bench import history
from tritium.bench.history import Filters, index_path, open_index, query, refresh, sessions, trends
from tritium.bench.plot import plot

LEVELS = [1.0] * 9 + [1.08] * 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine with a change, another one, a rejected receipt, a bare one, and JSON that is no receipt."""
    place = tmp_path_factory.mktemp("receipts")
    write_history(place / "one", LEVELS, n=2)
    write_history(place / "other", [0.8] * 3, n=2, cpu="Another CPU")
    forged = retold(1.0, START, commit_of(0))
    forged["tokens_per_second"] *= 2
    write(forged, place / "forged.json")
    write(bare(), place / "bare.json")
    write({"kind": "another"}, place / "another.json")
    (place / "broken.json").write_text("{")
    return place


@pytest.fixture(scope="module")
def index(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> sqlite3.Connection:
    connection = open_index(tmp_path_factory.mktemp("index") / "i.sqlite")
    assert refresh(connection, [folder]) == (2 * 17 + 2 * 3 + 4, 0)
    return connection


def test_only_receipts_are_in_the_index(index: sqlite3.Connection) -> None:
    rows = query(index, Filters(accepted_only=False))
    assert len(rows) == 42
    verdicts = {Path(row.path).name: row.verdict for row in rows if row.verdict != "accepted"}
    assert verdicts["forged.json"] == "rejected by decode_rate"
    assert set(verdicts) == {"forged.json", "bare.json"}
    assert [row.timestamp for row in rows] == sorted(row.timestamp for row in rows)


@pytest.mark.parametrize(
    ("filters", "n"),
    [
        (Filters(), 40),
        (Filters(machine="another"), 6),
        (Filters(model="demo"), 40),
        (Filters(model="94c1cb"), 40),
        (Filters(model="x"), 0),
        (Filters(isa="vnni", threads=2, backend="cpu"), 40),
        (Filters(threads=1), 0),
        (Filters(commit=commit_of(3)[:9]), 2),
        (Filters(since="2026-01-20"), 4),
        (Filters(until="2026-01-05"), 4),
        (Filters(since="2026-01-06", until="2026-01-06"), 4),
        (Filters(key="no"), 0),
        (Filters(machine="' OR 1 --"), 0),
    ],
)
def test_filters(index: sqlite3.Connection, filters: Filters, n: int) -> None:
    assert len(query(index, filters)) == n


def test_the_index_follows_the_files(tmp_path: Path) -> None:
    place, cache = tmp_path / "receipts", tmp_path / "i.sqlite"
    files = [write(retold(1.0 + i / 100, START, commit_of(i)), place / f"{i}.json") for i in range(3)]
    connection = open_index(cache)
    assert refresh(connection, [place]) == (3, 0)
    assert refresh(connection, [place]) == (0, 0)
    files[0].unlink()
    write(retold(1.5, START, commit_of(7)), files[1])
    assert refresh(connection, [place]) == (1, 1)
    assert {row.commit_id for row in query(connection, Filters())} == {commit_of(7), commit_of(2)}
    connection.close()


@pytest.mark.parametrize("damage", ["garbage", "version", "policy"])
def test_a_lost_index_is_made_again(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, cache = tmp_path / "receipts", tmp_path / "i.sqlite"
    write(retold(1.0, START, commit_of(0)), place / "a.json")
    connection = open_index(cache)
    refresh(connection, [place])
    connection.close()
    if damage == "garbage":
        cache.write_bytes(b"no database" * 100)
    elif damage == "version":
        monkeypatch.setattr(history, "INDEX_VERSION", 99)
    else:
        connection = sqlite3.connect(cache)
        connection.execute("UPDATE facts SET value = 'another'")
        connection.commit()
        connection.close()
    connection = open_index(cache)
    assert query(connection, Filters()) == []
    assert refresh(connection, [place]) == (1, 0)
    connection.close()


def test_a_trend_has_a_point_a_session(index: sqlite3.Connection) -> None:
    first, second = trends(query(index, Filters()), "tokens_per_second")
    assert (len(first.sessions), len(second.sessions)) == (17, 3)
    assert [len(session.rows) for session in first.sessions] == [2] * 17
    (point,) = first.points
    assert point.index == 9
    assert point.change == pytest.approx(1 / 1.08 - 1, abs=0.02)
    assert first.sessions[9].label == commit_of(9)[:8]
    assert not second.points
    (times, _) = trends(query(index, Filters()), "prefill_ms")
    assert [p.index for p in times.points] == [9]
    assert times.points[0].change > 0


def test_an_hour_apart_is_another_session(tmp_path: Path) -> None:
    from datetime import timedelta

    for i, minutes in enumerate((0, 50, 100, 170)):
        write(retold(1.0 + i / 1000, START + timedelta(minutes=minutes), commit_of(0)), tmp_path / "r" / f"{i}.json")
    connection = open_index(tmp_path / "i.sqlite")
    refresh(connection, [tmp_path / "r"])
    assert [len(session.rows) for session in sessions(query(connection, Filters()))] == [3, 1]
    connection.close()


def test_an_index_belongs_to_its_folders(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    assert index_path(tmp_path, [one, other]) == index_path(tmp_path, [other, one]) != index_path(tmp_path, [one])


def test_the_plot() -> None:
    lines = plot([1.0, 1.0, 2.0, 2.0], [2], width=8, height=3)
    assert lines == [
        "    2.05 │⠀⠀⠀⠀⠝⠃⠘⠃",
        "     1.5 │⠀⠀⠀⠀⠅",
        "    0.95 │⠀⣤⠀⣤⠅",
    ]  # fmt: skip
    assert plot([]) == []
    assert len(plot([5.0] * 3)) == 9
