# shellcheck shell=bash
# HH-RLHF dialogues (Bai et al., 2022): what the steps of this recipe share.
# Sources: [WPR] the README of github.com/aailab-kaist/WPR, which names the data set and gives the
# commands of TL;DR only ("as on TL;DR"); [MA] the table of hyper-parameters in the README of
# github.com/ernie-research/MA-RLHF, Gemma 2B.
RECIPE=hh-rlhf
# shellcheck source=../recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
set_folders "$ROOT/applications/DeepSpeed-Chat"

# A smoke run differs in nothing but this: paths, sizes and lengths.
if [ "$SMOKE" = 1 ]; then
  smoke_data dialogues
  smoke MODEL="$OUT/smoke/model" DATA_PATH="$OUT/smoke/Dahoas/full-hh-rlhf" \
    INFERENCE_DATA="$OUT/smoke/Dahoas/full-hh-rlhf" \
    SFT_BATCH_SIZE=2 SFT_PER_DEVICE_BATCH_SIZE=1 SFT_EPOCHS=1 RM_BATCH_SIZE=4 \
    RM_PER_DEVICE_BATCH_SIZE=4 PPO_BATCH_SIZE=4 PPO_PER_DEVICE_BATCH_SIZE=2 \
    MAX_SEQ_LEN=128 MAX_PROMPT_SEQ_LEN=100 MAX_ANSWER_SEQ_LEN=8 COST_DIM=20 TOP_K=8 \
    INFERENCE_BATCH_SIZE=4 NUM_SAMPLES=6 JUDGED_PAIRS=4
fi

DATASET=hh-rlhf                                 # models/hh-rlhf, results/hh-rlhf
MODEL="${MODEL:-google/gemma-2b}"               # [MA]
DATA_PATH="${DATA_PATH:-Dahoas/full-hh-rlhf}"   # [WPR] [MA]
INFERENCE_DATA="${INFERENCE_DATA:-hh-rlhf}"     # [MA]
DATA_SPLIT="${DATA_SPLIT:-2,4,4}"               # [MA]
SEED="${SEED:-1234}"                            # [MA]
MAX_SEQ_LEN="${MAX_SEQ_LEN:-1024}"              # of steps 1 and 2, as on TL;DR
MAX_PROMPT_SEQ_LEN="${MAX_PROMPT_SEQ_LEN:-512}" # [MA]
MAX_ANSWER_SEQ_LEN="${MAX_ANSWER_SEQ_LEN:-512}" # [MA]; 256 in the command of TL;DR
TEMPERATURE="${TEMPERATURE:-0.8}"               # [MA]; written with a point
END_TOKEN="${END_TOKEN:-<eos>}"                 # as on TL;DR
POLICIES="${POLICIES:-kl wpr}"                  # kl, wpr, ma, fkl, js, alpha, tv, chi

# Step 3, whatever the penalty.
PPO_BATCH_SIZE="${PPO_BATCH_SIZE:-256}"                     # [MA]
PPO_PER_DEVICE_BATCH_SIZE="${PPO_PER_DEVICE_BATCH_SIZE:-4}" # our choice: longer answers
ACTOR_LEARNING_RATE="${ACTOR_LEARNING_RATE:-1.5e-5}"        # [MA]
CRITIC_LEARNING_RATE="${CRITIC_LEARNING_RATE:-1.5e-5}"      # [MA]
PPO_WARMUP_RATIO="${PPO_WARMUP_RATIO:-0.05}"                # as on TL;DR; [MA] has 200 steps
PPO_WARMUP_STEPS="${PPO_WARMUP_STEPS:-0}"
NGRAM="${NGRAM:-1}"                                         # plain PPO
# [MA], as on TL;DR. The paper's own table is said, by secondary sources, to have 0.005 for WPR on
# HH-RLHF, and another value for each divergence, which we do not know.
KL_CTL="${KL_CTL:-0.05}"
# Memory against time, as on TL;DR.
PPO_MEMORY="${PPO_MEMORY:---actor_zero_stage 2 --critic_zero_stage 3 --offload \
--actor_gradient_checkpointing --critic_gradient_checkpointing}"

# shellcheck source=../steps.sh
source "$ROOT/scripts/steps.sh"
