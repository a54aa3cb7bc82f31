#!/usr/bin/env bash
# Step 2 of TL;DR: the reward model. Sources in brackets: see settings.sh.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

RM_BATCH_SIZE="${RM_BATCH_SIZE:-64}"                      # [MA]; [WPR] 8 GPUs x 8 x 1
RM_PER_DEVICE_BATCH_SIZE="${RM_PER_DEVICE_BATCH_SIZE:-8}" # [WPR]
RM_EPOCHS="${RM_EPOCHS:-1}"                               # [WPR] [MA]
RM_LEARNING_RATE="${RM_LEARNING_RATE:-1e-5}"              # [WPR] [MA]
RM_WEIGHT_DECAY="${RM_WEIGHT_DECAY:-0.1}"                 # [WPR]
RM_WARMUP_RATIO="${RM_WARMUP_RATIO:-0.1}"                 # [WPR] [MA]

reward_model "$@"
