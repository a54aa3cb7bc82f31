# shellcheck shell=bash
# UltraFeedback, DPO near two references: what the steps of this recipe share.
# Sources: [README] of github.com/idanshen/multi_ref (arXiv 2502.01203); [code] dpo_training.py
# there; [our choice].
RECIPE=ultrafeedback
# shellcheck source=../recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
set_folders "$ROOT/runs"

# A smoke run differs in nothing but this: paths, sizes and lengths.
if [ "$SMOKE" = 1 ]; then
  smoke_data chats
  smoke DATA="$OUT/smoke/trl-lib/ultrafeedback_binarized" REF_A="$OUT/smoke/a" \
    REF_B="$OUT/smoke/b" RM_NAME="$OUT/smoke/reward" BATCH_SIZE=4 PER_DEVICE_BATCH_SIZE=2 \
    MAX_LENGTH=96 NUM_SAMPLES=3 MAX_NEW_TOKENS=4
fi

DATA="${DATA:-ultrafeedback}"                # [README]
REF_A="${REF_A:-Qwen/Qwen2.5-0.5B-Instruct}" # [README]; the policy starts from it
REF_B="${REF_B:-Qwen/Qwen2.5-1.5B}"          # [README]
ALPHA="${ALPHA:-0.5}"                        # [README] weight of REF_A under reverse KL
BETA="${BETA:-0.5}"                          # [README] weight of REF_A under forward KL
GAMMA="${GAMMA:-1.0}"                        # [README]
# The reward model at the end. [README] writes Skywork/Reward-Llama-3.1-8B-v0.2; this is the name of
# that model on the hub.
RM_NAME="${RM_NAME:-Skywork/Skywork-Reward-Llama-3.1-8B-v0.2}"
BATCH_SIZE="${BATCH_SIZE:-32}"                      # [README] 2 x 16, one GPU
PER_DEVICE_BATCH_SIZE="${PER_DEVICE_BATCH_SIZE:-2}" # [README]
EPOCHS="${EPOCHS:-1}"                               # [README]
LEARNING_RATE="${LEARNING_RATE:-5e-7}"              # [code]
MAX_LENGTH="${MAX_LENGTH:-1024}"                    # our choice: TRL's default
NUM_SAMPLES="${NUM_SAMPLES:-256}"                   # our choice: held-out prompts
MAX_NEW_TOKENS="${MAX_NEW_TOKENS:-256}"             # our choice
SEED="${SEED:-42}"                                  # our choice
# shellcheck disable=SC2034 # of recipe.sh
DEFAULT_CHECKPOINT_STEPS=200 # our choice

# dpo FOLDER FLAG...: a run near both references.
dpo() {
  local folder="$1" micro_steps
  shift
  micro_steps="$(accumulation "$BATCH_SIZE" "$PER_DEVICE_BATCH_SIZE")"
  train "$folder" Multi-Reference/dpo_training.py \
    --dataset "$DATA" --ref_a "$REF_A" --ref_b "$REF_B" --alpha "$ALPHA" --beta "$BETA" \
    --gamma "$GAMMA" --rm_name "$RM_NAME" --output_dir "$folder" \
    --per_device_train_batch_size "$PER_DEVICE_BATCH_SIZE" \
    --per_device_eval_batch_size "$PER_DEVICE_BATCH_SIZE" \
    --gradient_accumulation_steps "$micro_steps" --num_train_epochs "$EPOCHS" --bf16 \
    --learning_rate "$LEARNING_RATE" --gradient_checkpointing --max_length "$MAX_LENGTH" \
    --num_samples "$NUM_SAMPLES" --max_new_tokens "$MAX_NEW_TOKENS" --seed "$SEED" "$@"
}
