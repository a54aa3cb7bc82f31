#!/usr/bin/env bash
# UltraFeedback: DPO near both references by forward KL; at the end the reward model compares the
# policy with each reference. Settings: settings.sh.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

dpo "$OUT/dpo_ultra_fkl_b${BETA/./}" --kl_type fkl "$@"
