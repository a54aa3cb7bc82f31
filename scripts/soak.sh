#!/usr/bin/env bash
# Kill every kind of step-3 run ten times with SIGKILL, saves included, and compare what comes out.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
PYTHONPATH="$ROOT/tests:$ROOT/tests/fixtures${PYTHONPATH:+:$PYTHONPATH}" python tests/soak.py "$@"
