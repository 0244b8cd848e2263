"""Judge receipts with the standard library alone: ``python -m tritium.gates FILE…``, for signed ones with ``--trust FILE``.

Exit codes are those of ``verify-receipt``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tritium.errors import FormatError
from tritium.gates import judge, judge_signed, worst
from tritium.receipts.dsse import is_envelope
from tritium.receipts.files import read_document
from tritium.receipts.keys import Trust, read_trust
from tritium.receipts.strict_json import loads


def main(arguments: list[str]) -> int:
    """Judge each file; the worst exit code."""
    parser = argparse.ArgumentParser("python -m tritium.gates", description="Judge receipts.")
    parser.add_argument("--trust", type=Path, metavar="FILE", help="the keys to trust, for signed receipts")
    parser.add_argument("files", nargs="+", metavar="FILE", help="a receipt")
    try:
        options = parser.parse_args(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    try:
        trust = None if options.trust is None else read_trust(options.trust)
    except (OSError, FormatError) as error:
        print(f"{options.trust}: {error}", file=sys.stderr)
        return 3 if isinstance(error, OSError) else error.exit_code
    return worst(_judge(name, trust, is_named=len(options.files) > 1) for name in options.files)


def _judge(name: str, trust: Trust | None, *, is_named: bool) -> int:
    try:
        data = read_document(Path(name))
    except OSError as error:
        print(f"{name}: {error.strerror}", file=sys.stderr)
        return 3
    if not _is_signed(data):
        verdict = judge(data)
    elif trust is None:
        print(f"{name}: a signed receipt is judged by the keys that you trust: give --trust FILE", file=sys.stderr)
        return 2
    else:
        verdict = judge_signed(data, trust)
    print("\n".join(([f"{name}:"] if is_named else []) + verdict.lines()))
    return verdict.exit_code


def _is_signed(data: bytes) -> bool:
    try:
        return is_envelope(loads(data))
    except FormatError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
