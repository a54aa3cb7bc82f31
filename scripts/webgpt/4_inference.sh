#!/usr/bin/env bash
# Step 4 of WebGPT: responses of the fine-tuned model and of all POLICIES to held-out prompts, with
# rewards. Sources in brackets: see settings.sh.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

NUM_SAMPLES="${NUM_SAMPLES:-2000}"                 # [MA]
INFERENCE_BATCH_SIZE="${INFERENCE_BATCH_SIZE:-16}" # [MA]

# The data set has no held-out split: 5 % of it are set aside with the seed of the training runs.
respond_with_rewards --data-seed "$SEED" "$@"
