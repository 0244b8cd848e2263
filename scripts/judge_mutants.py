"""Write what becomes of every single-field change of the positive example into docs/receipts.md; ``--check`` only compares."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import receipt_forgery  # type: ignore[import-not-found]  # noqa: E402
import receipt_mutants  # type: ignore[import-not-found]  # noqa: E402

PAGE = ROOT / "docs" / "receipts.md"
START, END = "<!-- mutants:start -->", "<!-- mutants:end -->"


def table() -> str:
    """Counts by kind, then the fields whose change stands, with the reason."""
    result = receipt_mutants.kill(receipt_forgery.positive())
    signed = receipt_mutants.kill(receipt_forgery.positive(), judged=receipt_mutants.verdict_on_signed)
    alone = {(mutant.kind, mutant.path) for mutant in result.survivors}
    further = [mutant for mutant in signed.survivors if (mutant.kind, mutant.path) not in alone]
    survivors = Counter(mutant.kind for mutant in result.survivors)
    lines = [
        f"{result.made.total()} changes: {100 * result.rate:.1f} % rejected or capped without a signature,",
        f"{100 * signed.rate:.1f} % under a trusted one, {len(further)} that stand only there.",
        "An unknown key is refused before anything else is read.",
        "",
        "| change | made | rejected | capped | stand |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {kind} | {n} | {result.rejected[kind]} | {result.capped[kind]} | {survivors[kind]} |"
        for kind, n in result.made.items()
    ]
    lines += ["", "| field that may change | how | why it stands |", "|---|---|---|"]
    fields: dict[str, list[str]] = {}
    for mutant in (*result.survivors, *further):
        fields.setdefault(mutant.field, []).append(mutant.kind)
    lines += [
        f"| `{field}` | {', '.join(dict.fromkeys(kinds))} | {receipt_mutants.reason(field)} |"
        for field, kinds in sorted(fields.items())
    ]
    return "\n".join(lines)


def main() -> int:
    """Write the page, or with ``--check`` return 1 if it is stale."""
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(START)
    made = f"{head}{START}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"
    if "--check" in sys.argv[1:]:
        return int(made != page)
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
