"""A history of receipts: one real run told again at other times, speeds, commits and machines, so that the judge accepts it."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from receipt_forgery import Receipt, positive, scale_times

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


def commit_of(number: int) -> str:
    """A commit's name."""
    return hashlib.sha1(str(number).encode()).hexdigest()


def retold(
    slowdown: float,
    moment: datetime,
    commit: str,
    *,
    cpu: str | None = None,
    dirty: bool = False,
    threads: int | None = None,
) -> Receipt:
    """The positive example, slower by a factor, at a moment, built from a commit."""
    receipt = copy.deepcopy(positive())
    run = receipt["evidence"]["run"]
    text = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    receipt["timestamp"] = run["started"] = text
    receipt["evidence"]["build"].update(commit=commit, dirty=dirty)
    if cpu is not None:
        receipt["evidence"]["machine"]["cpu"] = cpu
    scale_times(receipt, slowdown)
    for repeat in receipt["evidence"]["repeats"][1:]:
        repeat["decode_ns"] = round(repeat["decode_ns"] * slowdown)
    return receipt


def write(receipt: Receipt, path: Path) -> Path:
    """Write a receipt as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(receipt), encoding="utf-8")
    return path


def write_session(
    folder: Path, number: int, slowdown: float, rng: random.Random, *, n: int = 5, cpu: str | None = None
) -> list[Path]:
    """``n`` receipts of one commit, a minute apart; sessions are a day apart."""
    moment = START + timedelta(days=number)
    factors = [slowdown * (1 + rng.gauss(0, 0.006)) for _ in range(n)]
    return [
        write(
            retold(factor, moment + timedelta(minutes=i), commit_of(number), cpu=cpu),
            folder / f"{number:03d}-{i:02d}.json",
        )
        for i, factor in enumerate(factors)
    ]


def write_history(
    folder: Path, slowdowns: Sequence[float], *, seed: int = 1, n: int = 5, cpu: str | None = None
) -> None:
    """A session for each slowdown, with the noise between sessions."""
    rng = random.Random(seed)
    for number, slowdown in enumerate(slowdowns):
        write_session(folder, number, slowdown * (1 + rng.gauss(0, 0.012)), rng, n=n, cpu=cpu)
