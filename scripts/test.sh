#!/usr/bin/env bash
# Lint, types and tests. Arguments go to pytest: scripts/test.sh -m "not slow" -k wasserstein
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ruff check .
ruff format --check .
mypy
# Most tests use one core. TEST_WORKERS=0: all in one process, which a debugger can stop.
python -m pytest -q -n "${TEST_WORKERS:-2}" --dist worksteal "$@"
