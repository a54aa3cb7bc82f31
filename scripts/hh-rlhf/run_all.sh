#!/usr/bin/env bash
# The whole HH-RLHF recipe. A second start resumes where the first one stopped.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

run_steps
