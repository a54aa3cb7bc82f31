#!/usr/bin/env bash
# Step 2 of HH-RLHF: the reward model. Sources in brackets: see settings.sh.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

RM_BATCH_SIZE="${RM_BATCH_SIZE:-64}"                      # [MA]
RM_PER_DEVICE_BATCH_SIZE="${RM_PER_DEVICE_BATCH_SIZE:-8}" # as on TL;DR
RM_EPOCHS="${RM_EPOCHS:-1}"                               # [MA]
RM_LEARNING_RATE="${RM_LEARNING_RATE:-1e-5}"              # [MA]
RM_WEIGHT_DECAY="${RM_WEIGHT_DECAY:-0.1}"                 # as on TL;DR
RM_WARMUP_RATIO="${RM_WARMUP_RATIO:-0.1}"                 # [MA]

reward_model "$@"
