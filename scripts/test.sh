#!/usr/bin/env bash
# Lint, types and tests, in three tiers (tests/README.md):
#   scripts/test.sh             what runs in minutes: something of every part
#   scripts/test.sh --all       every test but the nightly ones, as in CI
#   scripts/test.sh --nightly   the nightly ones alone: soaks, long fuzzing, experiments
# Further arguments go to pytest: scripts/test.sh --all -k wasserstein
# The tests in tests/real/ need SmolLM2-135M-Instruct, which is fetched once into models/smollm2
# (DSCHAT_SMOLLM2=FOLDER takes another copy); without it they are skipped.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
case "${1:-}" in
  --all) marks="not nightly" && shift ;;
  --nightly) marks="nightly" && export DSCHAT_NIGHTLY=1 && shift ;;
  *) marks="not slow and not nightly" ;;
esac
ruff check .
ruff format --check .
mypy
if [ -z "${DSCHAT_SMOLLM2:-}" ] && ! [ -e models/smollm2/config.json ]; then
  log="$(mktemp)"
  bash scripts/get_model.sh smollm2 2>&1 | tee "$log" ||
    DSCHAT_NO_SMOLLM2="$(grep -a '^error' "$log" | tail -n 1 || true)"
  export DSCHAT_NO_SMOLLM2
  rm -f "$log"
fi
# Most tests use one core. TEST_WORKERS=0: all in one process, which a debugger can stop.
python -m pytest -q -n "${TEST_WORKERS:-2}" --dist worksteal -m "$marks" "$@"
