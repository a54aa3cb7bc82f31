#!/usr/bin/env bash
# Step 5 of WebGPT: GPT-4 compares each policy with the fine-tuned model and with KL. It needs
# OPENAI_API_KEY, and asks before it spends anything (--yes skips the question).
# shellcheck source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

JUDGED_PAIRS="${JUDGED_PAIRS:-50}" # [WPR] [MA]

# As replies to a question, by helpfulness: MA-RLHF has a script of its own for WebGPT.
judge hh-rlhf "$@"
