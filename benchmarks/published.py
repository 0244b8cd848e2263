"""The runs that the page of performance tells of: one of each machine, in dated folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmarks import results
from benchmarks.session import slug
from tritium.bench.figures import read_sample
from tritium.errors import FormatError
from tritium.receipts import jcs, strict_json
from tritium.receipts.files import write_text

BASELINES = Path("docs/baselines")


def publish(folder: Path, root: Path) -> Path:
    """Copy results and accepted receipts into the folder of their date, in place of that machine's earlier ones; the copy.

    Errors: OSError; FormatError for what are no results, and for a receipt that is not the one of the results. What was there is
    removed only when the copy is whole.
    """
    data = results.read(folder / "results.json")
    receipts = {}
    for name, row in data["receipts"].items():
        sample = read_sample(folder / name)
        found = jcs.digest(sample.receipt)
        if found != row["receipt_id"]:
            raise FormatError("a receipt of the results", where=name, expected=row["receipt_id"], got=found)
        if sample.problem is None:
            receipts[name] = sample.receipt
    machine = slug("bench", data["machine"]["cpu"] or "unnamed CPU", data["machine"]["n_cpus"])
    target = root / BASELINES / str(data["date"]) / machine
    copy = target.with_name(f".{machine}")
    shutil.rmtree(copy, ignore_errors=True)  # of a run that was broken off
    for name, content in {**receipts, "results.json": data}.items():
        write_text(copy / name, json.dumps(content, separators=(",", ":"), ensure_ascii=False) + "\n")
    for earlier in (root / BASELINES).glob(f"*/{machine}"):
        shutil.rmtree(earlier)
    copy.rename(target)
    return target / "results.json"


def published(root: Path) -> list[Path]:
    """The results of every machine, the newest run last: of two of a day the one with the last receipt."""

    def moment(path: Path) -> tuple[str, str]:
        data = results.read(path)
        receipts = [path.parent / name for name in data["receipts"]]
        stamps = [str(strict_json.loads(one.read_bytes())["timestamp"]) for one in receipts if one.is_file()]
        return str(data["date"]), max(stamps, default="")

    return sorted((root / BASELINES).glob("*/bench-*/results.json"), key=moment)
