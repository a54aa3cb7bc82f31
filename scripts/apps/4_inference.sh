#!/usr/bin/env bash
# Step 4 of APPS: programs of the fine-tuned model and of all POLICIES for held-out problems, run
# against their tests: pass@k and rewards. Sources in brackets: see settings.sh.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

NUM_SAMPLES="${NUM_SAMPLES:-2000}"                   # [WPR]
NUM_RESPONSES="${NUM_RESPONSES:-5}"                  # our choice: pass@1 to pass@5
SAMPLED_TOKENS="${SAMPLED_TOKENS:-5}"                # [MA] [WPR] the likeliest ones
INFERENCE_PROMPT_LEN="${INFERENCE_PROMPT_LEN:-1024}" # [WPR]
INFERENCE_BATCH_SIZE="${INFERENCE_BATCH_SIZE:-32}"   # [WPR]

for policy in sft $POLICIES; do
  respond "$policy" inference_apps.py --num_responses "$NUM_RESPONSES" --top_k "$SAMPLED_TOKENS" \
    --reward_workers "$REWARD_WORKERS" "$@"
done
