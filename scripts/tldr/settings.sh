# shellcheck shell=bash
# TL;DR summaries (Stiennon et al., 2020): what the steps of this recipe share.
# Sources: [WPR] the README of github.com/aailab-kaist/WPR; [MA] the table of hyper-parameters in
# the README of github.com/ernie-research/MA-RLHF, Gemma 2B; [our choice].
RECIPE=tldr
# shellcheck source=../recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
set_folders "$ROOT/applications/DeepSpeed-Chat"

# A smoke run differs in nothing but this: paths, sizes and lengths.
if [ "$SMOKE" = 1 ]; then
  smoke_data summaries
  smoke MODEL="$OUT/smoke/model" DATA_PATH="$OUT/smoke/openai/summarize_from_feedback" \
    INFERENCE_DATA="$OUT/smoke/openai/summarize_from_feedback" \
    SFT_BATCH_SIZE=2 SFT_PER_DEVICE_BATCH_SIZE=1 SFT_EPOCHS=1 RM_BATCH_SIZE=4 \
    RM_PER_DEVICE_BATCH_SIZE=4 PPO_BATCH_SIZE=4 PPO_PER_DEVICE_BATCH_SIZE=2 \
    MAX_SEQ_LEN=128 MAX_PROMPT_SEQ_LEN=100 MAX_ANSWER_SEQ_LEN=8 COST_DIM=20 TOP_K=8 \
    INFERENCE_BATCH_SIZE=4 NUM_SAMPLES=6 JUDGED_PAIRS=4
fi

DATASET=summarize                                        # [WPR] models/summarize, results/summarize
MODEL="${MODEL:-google/gemma-2b}"                        # [WPR] [MA]
DATA_PATH="${DATA_PATH:-openai/summarize_from_feedback}" # [WPR] [MA]
INFERENCE_DATA="${INFERENCE_DATA:-summarize}"            # [WPR] [MA]
DATA_SPLIT="${DATA_SPLIT:-2,4,4}"                        # [WPR] [MA]
SEED="${SEED:-1234}"                                     # [WPR] [MA]
MAX_SEQ_LEN="${MAX_SEQ_LEN:-1024}"                       # [WPR] of steps 1 and 2
MAX_PROMPT_SEQ_LEN="${MAX_PROMPT_SEQ_LEN:-512}"          # [WPR] [MA]
MAX_ANSWER_SEQ_LEN="${MAX_ANSWER_SEQ_LEN:-256}"          # [WPR]; [MA] 512
TEMPERATURE="${TEMPERATURE:-0.8}"                        # [WPR] [MA]; written with a point
END_TOKEN="${END_TOKEN:-<eos>}"                          # [WPR]
POLICIES="${POLICIES:-kl wpr}"                           # kl, wpr, ma, fkl, js, alpha, tv, chi

# Step 3, whatever the penalty.
PPO_BATCH_SIZE="${PPO_BATCH_SIZE:-256}"                     # [MA]; [WPR] 8 GPUs x 8 x 4
PPO_PER_DEVICE_BATCH_SIZE="${PPO_PER_DEVICE_BATCH_SIZE:-8}" # [WPR]
ACTOR_LEARNING_RATE="${ACTOR_LEARNING_RATE:-1.5e-5}"        # [WPR] [MA]
CRITIC_LEARNING_RATE="${CRITIC_LEARNING_RATE:-1.5e-5}"      # [WPR] [MA]
PPO_WARMUP_RATIO="${PPO_WARMUP_RATIO:-0.05}"                # [WPR]; the table of [MA] has 200 steps
PPO_WARMUP_STEPS="${PPO_WARMUP_STEPS:-0}"
NGRAM="${NGRAM:-1}"                                         # [WPR] plain PPO
# [WPR] 0.05, for any penalty. The paper's own table is said, by secondary sources, to have 0.01 for
# WPR on TL;DR, and another value for each divergence, which we do not know.
KL_CTL="${KL_CTL:-0.05}"
# [WPR] Memory against time.
PPO_MEMORY="${PPO_MEMORY:---actor_zero_stage 2 --critic_zero_stage 3 --offload \
--actor_gradient_checkpointing --critic_gradient_checkpointing}"

# shellcheck source=../steps.sh
source "$ROOT/scripts/steps.sh"
