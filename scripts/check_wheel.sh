#!/usr/bin/env bash
# Try the installed package as its user would: every kernel against the reference, some text, and the judge over its receipt.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
tritium --version
tritium self-test
tritium run -m demo "ROMEO:" -n 32 --device cpu --repeats 2 --receipt receipt.json
tritium verify-receipt receipt.json
python -m tritium.gates receipt.json
