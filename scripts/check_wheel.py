"""Try the installed package as its user would: every kernel against the reference, some text, and the judge over its receipt."""

from __future__ import annotations

import subprocess
import sys
import tempfile

COMMANDS = (
    "tritium --version",
    "tritium self-test",
    "tritium run -m demo ROMEO: -n 32 --device cpu --repeats 2 --receipt receipt.json",
    "tritium verify-receipt receipt.json",
    "tritium.gates receipt.json",
)

with tempfile.TemporaryDirectory() as folder:
    for command in COMMANDS:
        print("$", command, flush=True)
        subprocess.run([sys.executable, "-m", *command.split()], cwd=folder, check=True)
