#!/usr/bin/env bash
# Step 3 of TL;DR: PPO near the fine-tuned model by the Wasserstein penalty. PPO's own settings, and
# the sources in brackets, are in settings.sh.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

MAX_ITER="${MAX_ITER:-10}"  # [WPR] Sinkhorn iterations
COST_DIM="${COST_DIM:-512}" # [WPR] k1: a token's nearest tokens
TOP_K="${TOP_K:-128}"       # [WPR] k2: the most probable tokens

ppo wpr main_wpr.py --max_iter "$MAX_ITER" --cost_dim "$COST_DIM" --top_k "$TOP_K" "$@"
