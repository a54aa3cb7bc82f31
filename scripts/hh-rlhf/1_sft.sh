#!/usr/bin/env bash
# Step 1 of HH-RLHF: fine-tuning on the better replies. Sources in brackets: see settings.sh.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

SFT_BATCH_SIZE="${SFT_BATCH_SIZE:-512}"                     # [MA]
SFT_PER_DEVICE_BATCH_SIZE="${SFT_PER_DEVICE_BATCH_SIZE:-8}" # as on TL;DR
SFT_EPOCHS="${SFT_EPOCHS:-3}"                               # [MA]
SFT_LEARNING_RATE="${SFT_LEARNING_RATE:-5e-5}"              # [MA]
SFT_WEIGHT_DECAY="${SFT_WEIGHT_DECAY:-0.01}"                # as on TL;DR
SFT_WARMUP_RATIO="${SFT_WARMUP_RATIO:-0.1}"                 # [MA]

sft "$@"
