#!/usr/bin/env bash
# The whole WebGPT recipe. A second start goes on where the first one was.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

run_steps
