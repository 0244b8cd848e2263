#!/usr/bin/env bash
# Time the phases of a token: tritium timing as scripts/phase2.sh runs it.
# Usage: scripts/perf_phase2_timing.sh [MODEL] [TOKENIZER] [options of tritium timing]
exec "$(dirname "$0")/phase2.sh" timing "$@"
