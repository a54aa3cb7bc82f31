#!/usr/bin/env bash
# Step 3 of APPS: PPO by unit tests, near the fine-tuned model by reverse KL. PPO's own settings are
# in settings.sh.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

ppo kl main_apps.py --reward_workers "$REWARD_WORKERS" "$@"
