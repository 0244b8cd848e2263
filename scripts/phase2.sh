#!/usr/bin/env bash
# Measure a token, deterministic and with one thread, with what this source builds; the output is kept in build.
# Usage: scripts/phase2.sh timing|flamegraph [MODEL] [TOKENIZER] [options of that command]
set -euo pipefail
cd "$(dirname "$0")/.."

COMMAND=$1
shift
MODEL=auto
TOKENIZER=()
if [ $# -gt 0 ] && [[ $1 != -* ]]; then MODEL=$1; shift; fi
if [ $# -gt 0 ] && [[ $1 != -* ]]; then TOKENIZER=(--tokenizer "$1"); shift; fi
export BITNET_DETERMINISTIC=1 BITNET_SEED=42 RAYON_NUM_THREADS=1 TRITIUM_THREADS=1

[ "${BITNET_SKIP_BUILD:-0}" = 1 ] || make build
[ -x .venv/bin/tritium ] || { echo "no .venv/bin/tritium: run make build, or unset BITNET_SKIP_BUILD" >&2; exit 3; }
mkdir -p build
.venv/bin/tritium "$COMMAND" -m "$MODEL" "${TOKENIZER[@]}" "$@" 2>&1 | tee "build/phase2_$COMMAND.log"
