#!/usr/bin/env bash
# Step 3 of HH-RLHF: MA-PPO, macro actions of 5 tokens, under the KL penalty. PPO's own settings,
# and the sources in brackets, are in settings.sh.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

NGRAM="${MA_NGRAM:-5}" # [MA] its training script

ppo ma main.py "$@"
