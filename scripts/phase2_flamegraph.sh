#!/usr/bin/env bash
# Draw flame graphs of 1 and of 10 tokens: tritium flamegraph as scripts/phase2.sh runs it.
# Usage: scripts/phase2_flamegraph.sh [MODEL] [TOKENIZER] [options of tritium flamegraph]
exec "$(dirname "$0")/phase2.sh" flamegraph "$@"
