#!/usr/bin/env bash
# Step 3 of APPS: MA-PPO by unit tests, macro actions of 10 tokens, under the KL penalty. PPO's own
# settings are in settings.sh.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

NGRAM="${MA_NGRAM:-10}" # the authors' released models on APPS are called MA-PPO-Fixed10

ppo ma main_apps.py --reward_workers "$REWARD_WORKERS" "$@"
