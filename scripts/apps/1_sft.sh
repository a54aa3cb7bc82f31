#!/usr/bin/env bash
# Step 1 of APPS: fine-tuning on all solutions. Sources in brackets: see settings.sh.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

SFT_BATCH_SIZE="${SFT_BATCH_SIZE:-16}"                      # [MA]
SFT_PER_DEVICE_BATCH_SIZE="${SFT_PER_DEVICE_BATCH_SIZE:-2}" # our choice: 8 GPUs x 2
SFT_EPOCHS="${SFT_EPOCHS:-1}"                               # [MA]
SFT_LEARNING_RATE="${SFT_LEARNING_RATE:-5e-6}"              # [MA]
SFT_WEIGHT_DECAY="${SFT_WEIGHT_DECAY:-0.01}"                # as on TL;DR
SFT_WARMUP_RATIO="${SFT_WARMUP_RATIO:-0}"                   # [MA]

sft "$@"
