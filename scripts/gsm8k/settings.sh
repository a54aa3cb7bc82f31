# shellcheck shell=bash
# GSM8K (Cobbe et al., 2021), GRPO near two references: what the steps of this recipe share.
# Sources: [README] of github.com/idanshen/multi_ref (arXiv 2502.01203); [code] gsm8k_grpo.py there,
# at a commit before its flags; [our choice].
RECIPE=gsm8k
# shellcheck source=../recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../recipe.sh"
set_folders "$ROOT/runs"

# A smoke run differs in nothing but this: paths, sizes and lengths.
if [ "$SMOKE" = 1 ]; then
  smoke_data arithmetic
  smoke DATA="$OUT/smoke/openai/gsm8k" REF_A="$OUT/smoke/a" REF_B="$OUT/smoke/b" \
    BATCH_SIZE=16 PER_DEVICE_BATCH_SIZE=8 MAX_STEPS=2 MAX_PROMPT_LENGTH=40 \
    MAX_COMPLETION_LENGTH=8 EVAL_BATCH_SIZE=8
fi

DATA="${DATA:-gsm8k}"                                 # [README]
REF_A="${REF_A:-Qwen/Qwen2.5-0.5B-Instruct}"          # [README]; the policy starts from it
REF_B="${REF_B:-Qwen/Qwen2.5-Math-1.5B}"              # [README]
ALPHA="${ALPHA:-0.5}"                                 # [README] weight of REF_A under reverse KL
BETA="${BETA:-0.5}"                                   # [README] weight of REF_A under forward KL
GAMMA="${GAMMA:-0.1}"                                 # [README]
BATCH_SIZE="${BATCH_SIZE:-32}"                        # [README] 4 x 8, one GPU
PER_DEVICE_BATCH_SIZE="${PER_DEVICE_BATCH_SIZE:-4}"   # [README]
MAX_STEPS="${MAX_STEPS:-2000}"                        # [README]
NUM_GENERATIONS="${NUM_GENERATIONS:-8}"               # our choice; [code] 16 in batches of 64
LEARNING_RATE="${LEARNING_RATE:-5e-6}"                # [code]
WEIGHT_DECAY="${WEIGHT_DECAY:-0.1}"                   # [code]
WARMUP_RATIO="${WARMUP_RATIO:-0.1}"                   # [code]
MAX_PROMPT_LENGTH="${MAX_PROMPT_LENGTH:-256}"         # [code]
MAX_COMPLETION_LENGTH="${MAX_COMPLETION_LENGTH:-200}" # [code]
EVAL_BATCH_SIZE="${EVAL_BATCH_SIZE:-64}"              # our choice
SEED="${SEED:-42}"                                    # our choice
DEFAULT_CHECKPOINT_STEPS=100                          # our choice

# shellcheck disable=SC2034 # of the other scripts
RKL="$OUT/gsm8k_rkl_a${ALPHA/./}" # [README] gsm8k_rkl_a05
# shellcheck disable=SC2034
FKL="$OUT/gsm8k_fkl_b${BETA/./}"

# grpo FOLDER FLAG...: a run near both references.
grpo() {
  local folder="$1" micro_steps
  shift
  micro_steps="$(accumulation "$BATCH_SIZE" "$PER_DEVICE_BATCH_SIZE")"
  train "$folder" Multi-Reference/gsm8k_grpo.py \
    --dataset "$DATA" --ref_a "$REF_A" --ref_b "$REF_B" --alpha "$ALPHA" --beta "$BETA" \
    --gamma "$GAMMA" --model_out "$folder" \
    --per_device_train_batch_size "$PER_DEVICE_BATCH_SIZE" \
    --gradient_accumulation_steps "$micro_steps" --max_steps "$MAX_STEPS" --bf16 \
    --num_generations "$NUM_GENERATIONS" --learning_rate "$LEARNING_RATE" \
    --weight_decay "$WEIGHT_DECAY" --lr_scheduler_type cosine --warmup_ratio "$WARMUP_RATIO" \
    --max_prompt_length "$MAX_PROMPT_LENGTH" --max_completion_length "$MAX_COMPLETION_LENGTH" \
    --eval_batch_size "$EVAL_BATCH_SIZE" --seed "$SEED" "$@"
}
