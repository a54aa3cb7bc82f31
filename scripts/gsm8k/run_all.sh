#!/usr/bin/env bash
# The whole GSM8K recipe. A second start resumes where the first one stopped.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

export OUT GPUS # CUDA_VISIBLE_DEVICES, which may have named them, is unset by now
for script in 1_grpo_rkl 2_grpo_fkl 3_evaluate; do
  bash "$ROOT/scripts/$RECIPE/$script.sh"
done
