#!/usr/bin/env bash
# Step 1 of TL;DR: fine-tuning on the better summaries. Sources in brackets: see settings.sh.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

SFT_BATCH_SIZE="${SFT_BATCH_SIZE:-512}"                     # [MA]; [WPR] 8 GPUs x 8 x 8
SFT_PER_DEVICE_BATCH_SIZE="${SFT_PER_DEVICE_BATCH_SIZE:-8}" # [WPR]
SFT_EPOCHS="${SFT_EPOCHS:-3}"                               # [WPR] [MA]
SFT_LEARNING_RATE="${SFT_LEARNING_RATE:-5e-5}"              # [WPR] [MA]
SFT_WEIGHT_DECAY="${SFT_WEIGHT_DECAY:-0.01}"                # [WPR]
SFT_WARMUP_RATIO="${SFT_WARMUP_RATIO:-0.1}"                 # [WPR] [MA]

sft "$@"
