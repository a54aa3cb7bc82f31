#!/usr/bin/env bash
# GSM8K: accuracy, pass@1, pass@4 and the KL from each reference, of both references and both
# policies, as a table and a picture. Settings: settings.sh.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

# One process: the first GPU of the recipe.
if [ "$GPUS" != none ]; then export CUDA_VISIBLE_DEVICES="${GPUS%%,*}"; fi
step "$OUT/gsm8k_comparison/evaluation.recipe" \
  python "$ROOT/evaluation/compare.py" --models "RKL=$RKL" "FKL=$FKL" \
  --reference_models "ref_a=$REF_A" "ref_b=$REF_B" --runs "$RKL" "$FKL" --dataset "$DATA" \
  --greedy --pass_k 1 4 --dtype fp32 \
  --max_prompt_tokens "$MAX_PROMPT_LENGTH" --max_new_tokens "$MAX_COMPLETION_LENGTH" \
  --batch_size "$EVAL_BATCH_SIZE" --seed "$SEED" --output "$OUT/gsm8k_comparison" "$@"
