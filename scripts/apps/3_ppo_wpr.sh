#!/usr/bin/env bash
# Step 3 of APPS: PPO by unit tests, near the fine-tuned model by the Wasserstein penalty. PPO's own
# settings are in settings.sh.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

MAX_ITER="${MAX_ITER:-10}"  # as on TL;DR: Sinkhorn iterations
COST_DIM="${COST_DIM:-512}" # as on TL;DR: k1, a token's nearest tokens
TOP_K="${TOP_K:-128}"       # as on TL;DR: k2, the most probable tokens

ppo wpr main_wpr_apps.py --reward_workers "$REWARD_WORKERS" \
  --max_iter "$MAX_ITER" --cost_dim "$COST_DIM" --top_k "$TOP_K" "$@"
