#!/usr/bin/env bash
# GSM8K: accuracy, pass@1, pass@4 and the KL from each reference, of both references and both
# policies, as a table and a picture. Settings: settings.sh.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

# One process: the first GPU of the recipe.
if [ "$GPUS" != none ]; then export CUDA_VISIBLE_DEVICES="${GPUS%%,*}"; fi
step "$OUT/gsm8k_comparison/evaluation.recipe" \
  python -m dschat.evaluation.multi_reference_comparison \
  --references "ref_a=$REF_A" "ref_b=$REF_B" --policies "RKL=$RKL" "FKL=$FKL" \
  --runs "RKL=$RKL" "FKL=$FKL" --dataset "$DATA" \
  --max_prompt_length "$MAX_PROMPT_LENGTH" --max_completion_length "$MAX_COMPLETION_LENGTH" \
  --batch_size "$EVAL_BATCH_SIZE" --seed "$SEED" --output_dir "$OUT/gsm8k_comparison" "$@"
