"""Every single-field change of a receipt: scalars × {0, −1, 10, 1000, 1/1000}, fields deleted, duplicated, swapped."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import receipt_forgery as forgery
from receipt_forgery import Receipt
from signing_scene import RUNNER, trusted
from tritium.gates import Verdict, judge_signed
from tritium.receipts.dsse import sign_payload
from tritium.receipts.jcs import canonical
from tritium.receipts.keys import Trust
from tritium.receipts.sign import PrivateKey
from tritium.receipts.statement import receipt_statement

LONG = 4
"""Of a longer list, the first two items, one in the middle and the last stand for all."""

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mutant:
    """``kind`` of change, at ``path``; ``text`` is the receipt with it."""

    kind: str
    path: Path
    text: str

    @property
    def field(self) -> str:
        """The path with every index as a star."""
        return ".".join("*" if isinstance(part, int) else part for part in self.path)


def paths(value: Any, at: Path = ()) -> Iterator[Path]:
    """The fields and items that are changed."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield (*at, name)
            yield from paths(part, (*at, name))
    elif isinstance(value, list):
        chosen = range(len(value)) if len(value) <= LONG else sorted({0, 1, len(value) // 2, len(value) - 1})
        for i in chosen:
            if not isinstance(value[i], dict | list):
                yield (*at, i)
            yield from paths(value[i], (*at, i))


def get(value: Any, path: Path) -> Any:
    """What stands at a path."""
    for part in path:
        value = value[part]
    return value


def _changed(receipt: Receipt, path: Path, value: Any) -> str:
    made = copy.deepcopy(receipt)
    get(made, path[:-1])[path[-1]] = value
    return json.dumps(made)


def _scalars(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, bool):
        yield "flipped", not value
    elif isinstance(value, int):
        yield from (
            ("× 0", 0),
            ("× −1", -value),
            ("× 10", value * 10),
            ("× 1000", value * 1000),
            ("÷ 1000", value // 1000),
        )
    elif isinstance(value, float):
        yield from (
            ("× 0", 0.0),
            ("× −1", -value),
            ("× 10", value * 10),
            ("× 1000", value * 1000),
            ("÷ 1000", value / 1000),
        )
    elif isinstance(value, str):
        yield from (("emptied", ""), ("a number", 0), ("other text", value[:-1] + ("b" if value[-1:] != "b" else "c")))
    elif value is None:
        yield from (("a number", 1), ("a text", "x"))


def mutants(receipt: Receipt) -> Iterator[Mutant]:
    """All of them, in the order of the fields; a change that changes nothing is left out."""
    for path in paths(receipt):
        value = get(receipt, path)
        for kind, other in _scalars(value):
            if other != value or type(other) is not type(value):
                yield Mutant(kind, path, _changed(receipt, path, other))
        made = copy.deepcopy(receipt)
        del get(made, path[:-1])[path[-1]]
        yield Mutant("deleted", path, json.dumps(made))
        name = path[-1]
        if isinstance(name, str):
            yield Mutant("duplicated", path, _duplicated(receipt, path))
            names = list(get(receipt, path[:-1]))
            after = names[(names.index(name) + 1) % len(names)]
            yield from _swapped(receipt, path[:-1], name, after)
        else:
            made = copy.deepcopy(receipt)
            get(made, path[:-1]).insert(name, value)
            yield Mutant("duplicated", path, json.dumps(made))
            yield from _swapped(receipt, path[:-1], name, (name + 1) % len(get(receipt, path[:-1])))


def _swapped(receipt: Receipt, parent: Path, one: str | int, other: str | int) -> Iterator[Mutant]:
    made = copy.deepcopy(receipt)
    place = get(made, parent)
    if place[one] != place[other]:
        place[one], place[other] = place[other], place[one]
        yield Mutant("swapped", (*parent, one), json.dumps(made))


def _duplicated(receipt: Receipt, path: Path) -> str:
    mark = "field-that-stands-twice"
    made = copy.deepcopy(receipt)
    place = get(made, path[:-1])
    parent = {mark: place[path[-1]], **place}
    if len(path) == 1:
        made = parent
    else:
        get(made, path[:-2])[path[-2]] = parent
    return json.dumps(made).replace(json.dumps(mark), json.dumps(path[-1]), 1)


REASONS: tuple[tuple[str, str], ...] = (
    (r"timestamp|evidence\.run\.(started|ended)", "within the tolerance of two clocks: a second, or 0.1 s and 2 % of the run"),
    (r"tokens_per_second|prefill_ms|evidence\.stages\.\*\.percent", "within the tolerance of rounding"),
    (r"environment\..*", "told by nothing else; no claim rests on it"),
    (r"model(\.path)?", "a name; the hash is the model"),
    (r"evidence\.machine\..*", "a fact of the machine, within what machines are; it moves a bound and no claim"),
    (r"evidence\.build\..*", "told by nothing else before a signature binds it to a build"),
    (r"evidence\.sampling\..*", "replay decides whether these parameters give these tokens"),
    (r"evidence\.plan\.(graph_hash|hash|profile|profile_hash)", "replay computes it again"),
    (r"evidence\.trace\..*|evidence\.model\.tokenizer_sha256", "replay computes it again"),
    (r"evidence\.(run|repeats\.\*)\.logits_sha256|evidence\.(run|batch\.others\.\*)\.finish_detail", "replay computes it again"),
    (r"evidence\.run\.(user_ns|system_ns|(peak_rss|anonymous|file_backed)_bytes|major_faults|involuntary_switches)",
     "a cost that may have any value within its bounds; the speed does not rest on it"),
    (r"evidence\.run\.(end_ids.*|ignore_eos)", "end tokens that did not occur change nothing"),
    (r"evidence\.run\.(token_ns|wall_ns).*|evidence\.run\.passes\..*", "a time within the gap between its neighbors"),
    (r"evidence\.repeats\..*", "a further run of another duration is as honest"),
    (r"evidence\.bandwidth\..*", "a sample that leaves the median as it is, or a size that no bound reads"),
    (r"evidence\.ledger\.wall_ns", "within the passes that it lies in"),
    (r"evidence\.plan\..*|evidence\.model\..*", "a part that no step reads"),
    (r"kernels\.\*|kernels", "the same kernels in another order, or one listed twice"),
    (r"evidence\.ledger\.steps.*|evidence\.ledger\.families.*", "the same rows in another order"),
    (r"deterministic", "claims less than the repeats show"),
    (r".*", "accepted: find out why"),
)  # fmt: skip


def reason(field: str) -> str:
    """Why a change of this field may stand."""
    return next(text for pattern, text in REASONS if re.fullmatch(pattern, field))


@dataclass(frozen=True, slots=True)
class Result:
    """How many mutants by kind: made, rejected, capped; and the survivors."""

    made: Counter[str]
    rejected: Counter[str]
    capped: Counter[str]
    survivors: tuple[Mutant, ...]

    @property
    def rate(self) -> float:
        """Share of mutants rejected or capped."""
        return 1 - len(self.survivors) / self.made.total()


def signed(text: str, key: PrivateKey = RUNNER) -> bytes:
    """A receipt, sound or not, under a signature of its own: the statement follows from the text that stands there."""
    hole = "receipt-that-is-signed"
    statement = json.loads(receipt_statement(json.loads(text), forgery.NOW))
    statement["predicate"]["receipt"] = hole
    return sign_payload(canonical(statement).replace(json.dumps(hole).encode(), text.encode()), [key]).to_bytes()


def verdict_on_signed(text: str) -> Verdict:
    """Judge what a forger signed with a key that the judge trusts: all that a signature proves is that he signed it."""
    return judge_signed(signed(text), Trust.of([trusted()]), now=forgery.NOW)


def kill(receipt: Receipt, every: int = 1, judged: Callable[[str], Verdict] = forgery.verdict) -> Result:
    """Judge every n-th mutant. Capped: accepted, but some claim stands lower than the receipt's own."""
    whole = {claim.name: claim.level or "" for claim in judged(json.dumps(receipt)).claims}
    made: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    capped: Counter[str] = Counter()
    survivors = []
    for number, mutant in enumerate(mutants(receipt)):
        if number % every:
            continue
        made[mutant.kind] += 1
        verdict = judged(mutant.text)
        if verdict.failed:
            rejected[mutant.kind] += 1
        elif any((claim.level or "") < whole[claim.name] for claim in verdict.claims):
            capped[mutant.kind] += 1
        else:
            survivors.append(mutant)
    return Result(made, rejected, capped, tuple(survivors))
