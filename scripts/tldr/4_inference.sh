#!/usr/bin/env bash
# Step 4 of TL;DR: responses of the fine-tuned model and of all POLICIES to held-out prompts, with
# rewards. Sources in brackets: see settings.sh.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

NUM_SAMPLES="${NUM_SAMPLES:-2000}"                 # [MA]
INFERENCE_BATCH_SIZE="${INFERENCE_BATCH_SIZE:-16}" # [MA]

respond_with_rewards "$@"
