#!/usr/bin/env bash
# Draw flame graphs of 1 and of 10 tokens: tritium flamegraph, deterministic and with one thread, built from this source.
# Usage: scripts/phase2_flamegraph.sh [MODEL] [TOKENIZER] [options of tritium flamegraph]
set -euo pipefail
cd "$(dirname "$0")/.."

MODEL=auto
TOKENIZER=()
if [ $# -gt 0 ] && [[ $1 != -* ]]; then MODEL=$1; shift; fi
if [ $# -gt 0 ] && [[ $1 != -* ]]; then TOKENIZER=(--tokenizer "$1"); shift; fi
export BITNET_DETERMINISTIC=1 BITNET_SEED=42 RAYON_NUM_THREADS=1 TRITIUM_THREADS=1

[ "${BITNET_SKIP_BUILD:-0}" = 1 ] || make build
[ -x .venv/bin/tritium ] || { echo "no .venv/bin/tritium: run make build, or unset BITNET_SKIP_BUILD" >&2; exit 3; }
exec .venv/bin/tritium flamegraph -m "$MODEL" "${TOKENIZER[@]}" "$@"
