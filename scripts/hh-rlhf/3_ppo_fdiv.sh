#!/usr/bin/env bash
# Step 3 of HH-RLHF: PPO near the fine-tuned model by another f-divergence: F_DIV=fkl, js, alpha, tv
# or chi. PPO's own settings are in settings.sh.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

F_DIV="${F_DIV:-js}" # our choice of a default

ppo "$F_DIV" main.py --f_div "$F_DIV" "$@"
