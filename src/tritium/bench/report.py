"""A self-contained page of a history: trends with their change points, kernels on the roofline, machines side by side.

Nothing is fetched: style and charts stand in the page, and its policy forbids requests. Every figure is read from receipts that
the judge accepted; those that it did not are listed with its reason.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tritium.bench.figures import FIGURES, digits
from tritium.bench.history import Row, Trend, trends
from tritium.errors import UnsupportedError
from tritium.gates import Policy, read_policy
from tritium.receipts import registry, strict_json

TEMPLATE = Path(__file__).with_name("report.html")
LEAST_SHARE = 0.005
"""Kernels that take less of the time are one row of the table."""
SPOT_SHARE = 0.02
"""Kernels that take less of the time are no spot of the roofline."""


@dataclass(frozen=True, slots=True)
class Op:
    """What a kernel did for one op in all layers of the newest receipt, a forwarded token."""

    name: str
    kernel: str
    share: float
    us: float
    kilobytes: float
    gb_per_s: float
    gmac_per_s: float
    intensity: float | None


def ops_of(receipt: Mapping[str, Any]) -> list[Op]:
    """The ledger by op and kernel, the longest first; the rest in one row. All of it counted by the executor."""
    ledger = receipt["evidence"]["ledger"]
    n = ledger["n_tokens"]
    sums: dict[tuple[str, str], list[int]] = {}
    for row in ledger["steps"]:
        total = sums.setdefault((re.sub(r"^\d+\.", "", row["step"]), row["kernel"]), [0, 0, 0])
        for i, name in enumerate(("ns", "bytes", "macs")):
            total[i] += row[name]
    whole = sum(total[0] for total in sums.values()) or 1
    large = {key: total for key, total in sums.items() if total[0] >= LEAST_SHARE * whole}
    small = [total for key, total in sums.items() if key not in large]
    found = [_op(*key, total, whole, n) for key, total in sorted(large.items(), key=lambda item: -item[1][0])]
    if small:
        rest = [sum(total[i] for total in small) for i in range(3)]
        found.append(_op(f"{len(small)} others", "", rest, whole, n))
    return found


def _op(name: str, kernel: str, total: Sequence[int], whole: int, n: int) -> Op:
    ns, n_bytes, macs = total
    spent = max(ns, 1)
    intensity = macs / n_bytes if n_bytes and macs else None
    return Op(name, kernel, ns / whole, ns / n / 1e3, n_bytes / n / 1e3, n_bytes / spent, macs / spent, intensity)


def _ceiling(receipt: Mapping[str, Any], policy: Policy) -> float | None:
    """10⁹ multiply-accumulates a second that no CPU of the receipt's instruction set and threads exceeds, as the judge has it."""
    found = [registry.find(kernel) for kernel in receipt["kernels"]]
    rates = [
        policy.isas[e.isa]["macs_per_cycle"] for e in found if e is not None and e.isa in policy.isas and e.isa != "any"
    ]
    threads = receipt["evidence"]["run"]["threads"]
    return max(rates) * policy.get("physics", "ghz") * threads if rates else None


def render(rows: Iterable[Row], metric: str, moment: datetime) -> str:
    """The page of these rows. Errors: UnsupportedError without matplotlib; OSError where a receipt is gone."""
    try:
        from tritium.bench import charts
    except ImportError as error:
        raise UnsupportedError("charts", got=str(error), hint="pip install 'tritium[report]'") from None
    import jinja2

    every = list(rows)
    accepted = [row for row in every if row.is_accepted]
    found = trends(accepted, metric)
    policy = read_policy()
    sections = [_section(trend, policy, charts) for trend in found]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["digits"] = digits
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        moment=moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        metric=charts.NAMES[metric],
        sections=sections,
        comparisons=_comparisons(found, charts),
        refused=[row for row in every if not row.is_accepted],
        n_accepted=len(accepted),
        n_sessions=sum(len(trend.sessions) for trend in found),
        n_changes=sum(len(trend.points) for trend in found),
        policy=policy.sha256[:16],
    )


def _section(trend: Trend, policy: Policy, charts: Any) -> dict[str, Any]:
    """What the template shows of one key."""
    newest = trend.sessions[-1].rows[-1]
    receipt = strict_json.loads(Path(newest.path).read_bytes())
    ops = ops_of(receipt)
    spotted = [op for op in ops if op.intensity and op.kernel and op.share >= SPOT_SHARE]
    spots = [charts.Spot(op.name, op.intensity, op.gmac_per_s, op.share) for op in spotted]
    probe = receipt["evidence"]["bandwidth"]
    roof = charts.roofline_chart(spots, probe and probe["median_gb_per_s"], _ceiling(receipt, policy)) if spots else ""
    numbers = {id(op): index for index, op in enumerate(spotted, 1)}
    level = statistics.fmean(trend.medians[trend.points[-1].index if trend.points else 0 :])
    worse = trend.metric in charts.LESS_IS_BETTER
    return {
        "id": trend.key.id,
        "title": trend.model_name or trend.key.model[:12],
        "workload": trend.key.workload.split()[0],
        "key": trend.key,
        "chart": charts.trend_chart(trend),
        "roofline": roof,
        "ops": [(numbers.get(id(op)), op) for op in ops],
        "latest": trend.medians[-1],
        "level": level,
        "newest": newest,
        "changes": [
            {
                "point": point,
                "is_worse": (point.change > 0) == worse,
                "before": trend.sessions[point.index - 1],
                "after": trend.sessions[point.index],
            }
            for point in trend.points
        ],
        "sessions": [
            {"session": session, "median": median, "low": min(values), "high": max(values), "n": len(values)}
            for session, median, values in (
                (session, median, session.values(trend.metric))
                for session, median in zip(reversed(trend.sessions), reversed(trend.medians), strict=True)
            )
        ],
    }


def _comparisons(found: Sequence[Trend], charts: Any) -> list[dict[str, Any]]:
    """Newest sessions of one model and workload on several machines, instruction sets or numbers of threads."""
    groups: dict[tuple[str, str], list[Trend]] = {}
    for trend in found:
        groups.setdefault((trend.key.model, trend.key.workload), []).append(trend)
    shown = []
    for (_, workload), group in groups.items():
        if len(group) < 2:
            continue
        metric = group[0].metric
        ordered = sorted(group, key=lambda trend: trend.medians[-1], reverse=metric not in charts.LESS_IS_BETTER)
        bars = []
        for trend in ordered:
            values = trend.sessions[-1].values(metric)
            key = trend.key
            name = f"{key.machine.split(',')[0]} · {key.isa} · {key.threads} thread{'s' if key.threads > 1 else ''}"
            bars.append((name, trend.medians[-1], min(values), max(values)))
        shown.append(
            {
                "title": group[0].model_name,
                "workload": workload.split()[0],
                "chart": charts.bars_chart(bars, charts.NAMES[metric]),
                "rows": [
                    {"trend": trend, "ratio": trend.medians[-1] / ordered[0].medians[-1], "rss": _last(trend, "rss_mb")}
                    for trend in ordered
                ],
            }
        )
    return shown


def _last(trend: Trend, name: str) -> float | None:
    assert name in FIGURES
    values = trend.sessions[-1].values(name)
    return statistics.median(values) if values else None
