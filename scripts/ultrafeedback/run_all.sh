#!/usr/bin/env bash
# The whole UltraFeedback recipe. A second start resumes where the first one stopped.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

export OUT GPUS # CUDA_VISIBLE_DEVICES, which may have named them, is unset by now
for script in 1_dpo_rkl 2_dpo_fkl; do
  bash "$ROOT/scripts/$RECIPE/$script.sh"
done
