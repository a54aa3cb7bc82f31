#!/usr/bin/env bash
# GSM8K: GRPO near both references by reverse KL (their geometric mean). Settings: settings.sh.
# Accuracy on the test part is measured before and after training.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

grpo "$RKL" --kl_type rkl "$@"
