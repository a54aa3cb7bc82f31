#!/usr/bin/env bash
# GSM8K: GRPO near both references by forward KL (their arithmetic mean). Settings: settings.sh.
# Accuracy on the test part is measured before and after training.
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

grpo "$FKL" --kl_type fkl "$@"
