# shellcheck shell=bash
# APPS programs (Hendrycks et al., 2021): what the steps of this recipe share.
# Sources: [MA] the table of hyper-parameters in the README of github.com/ernie-research/MA-RLHF,
# CodeGemma 2B; [WPR] github.com/aailab-kaist/WPR, which names the data set and the scripts, and its
# inference_apps.py; "as on TL;DR": what its README has for TL;DR.
# With 7B (the size of WPR's table on APPS, by secondary sources), [MA] has
#   MODEL=google/codegemma-7b-it SFT_BATCH_SIZE=32 SFT_LEARNING_RATE=2e-6
RECIPE=apps
# shellcheck source=../recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
set_folders "$ROOT/applications/DeepSpeed-Chat"

# A smoke run differs in nothing but this: paths, sizes and lengths.
if [ "$SMOKE" = 1 ]; then
  smoke_data programs
  smoke MODEL="$OUT/smoke/model" DATA_PATH="$OUT/smoke/codeparrot/apps" \
    INFERENCE_DATA="$OUT/smoke/codeparrot/apps" \
    SFT_BATCH_SIZE=1 SFT_PER_DEVICE_BATCH_SIZE=1 PPO_BATCH_SIZE=4 PPO_PER_DEVICE_BATCH_SIZE=2 \
    MAX_SEQ_LEN=400 MAX_ANSWER_SEQ_LEN=8 COST_DIM=20 TOP_K=8 REWARD_WORKERS=1 \
    INFERENCE_BATCH_SIZE=4 NUM_SAMPLES=2 NUM_RESPONSES=2
fi

DATASET=apps                                    # models/apps, results/apps
MODEL="${MODEL:-google/codegemma-2b}"           # [MA]
DATA_PATH="${DATA_PATH:-codeparrot/apps}"       # [MA] [WPR]
INFERENCE_DATA="${INFERENCE_DATA:-apps}"        # [WPR]
DATA_SPLIT="${DATA_SPLIT:-2,0,8}"               # [MA] 20 % for step 1, 80 % for step 3
SEED="${SEED:-1234}"                            # [MA]
MAX_SEQ_LEN="${MAX_SEQ_LEN:-1024}"              # of step 1, as on TL;DR
MAX_PROMPT_SEQ_LEN="${MAX_PROMPT_SEQ_LEN:-600}" # [MA]
MAX_ANSWER_SEQ_LEN="${MAX_ANSWER_SEQ_LEN:-512}" # [MA] [WPR]
TEMPERATURE="${TEMPERATURE:-1.0}"               # [MA]; written with a point
END_TOKEN="${END_TOKEN:-<eos>}"                 # as on TL;DR
POLICIES="${POLICIES:-kl wpr}"                  # kl, wpr, ma
REWARD_WORKERS="${REWARD_WORKERS:-8}"           # our choice: programs at once, per rank

# Step 3, whatever the penalty.
PPO_BATCH_SIZE="${PPO_BATCH_SIZE:-16}"                      # [MA]
PPO_PER_DEVICE_BATCH_SIZE="${PPO_PER_DEVICE_BATCH_SIZE:-2}" # our choice: 8 GPUs x 2
ACTOR_LEARNING_RATE="${ACTOR_LEARNING_RATE:-5e-7}"          # [MA]
CRITIC_LEARNING_RATE="${CRITIC_LEARNING_RATE:-5e-5}"        # [MA]
PPO_WARMUP_RATIO="${PPO_WARMUP_RATIO:-0}"
PPO_WARMUP_STEPS="${PPO_WARMUP_STEPS:-20}"                  # [MA]
NGRAM="${NGRAM:-1}"                                         # plain PPO
KL_CTL="${KL_CTL:-0.05}"                                    # [MA], for any penalty
# Memory against time, as on TL;DR.
PPO_MEMORY="${PPO_MEMORY:---actor_zero_stage 2 --critic_zero_stage 3 --offload \
--actor_gradient_checkpointing --critic_gradient_checkpointing}"

# shellcheck source=../steps.sh
source "$ROOT/scripts/steps.sh"
