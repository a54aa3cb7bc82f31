#!/usr/bin/env bash
# UltraFeedback: DPO near both references by reverse KL; at the end the reward model compares the
# policy with each reference. Settings: settings.sh.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

dpo "$OUT/dpo_ultra_rkl_a${ALPHA/./}" --kl_type rkl "$@" # [README] dpo_ultra_rkl_a05
