#!/usr/bin/env bash
# Lint, types and tests. Arguments go to pytest: scripts/test.sh -m "not slow" -k wasserstein
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ruff check .
ruff format --check .
mypy
python -m pytest -q "$@"
