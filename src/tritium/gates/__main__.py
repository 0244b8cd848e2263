"""Judge receipts with the standard library alone: ``python -m tritium.gates FILE…``; exit codes as of ``verify-receipt``."""

from __future__ import annotations

import sys
from pathlib import Path

from tritium.gates import judge


def main(arguments: list[str]) -> int:
    """Judge each file; the worst exit code."""
    if not arguments:
        print("usage: python -m tritium.gates FILE…", file=sys.stderr)
        return 2
    codes = []
    for name in arguments:
        try:
            data = Path(name).read_bytes()
        except OSError as error:
            print(f"{name}: {error.strerror}", file=sys.stderr)
            codes.append(3)
            continue
        verdict = judge(data)
        print("\n".join(([f"{name}:"] if len(arguments) > 1 else []) + verdict.lines()))
        codes.append(verdict.exit_code)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
