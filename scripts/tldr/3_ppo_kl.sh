#!/usr/bin/env bash
# Step 3 of TL;DR: PPO near the fine-tuned model by reverse KL, the baseline. PPO's own settings are
# in settings.sh.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

ppo kl main.py "$@"
