r"""Compare models by their responses to the same prompts: rewards, accuracy, divergences, ROUGE.

    dschat-compare results/wpr_step-100.jsonl results/kl_step-100.jsonl \
        --references openai/summarize_from_feedback --output comparison

compares files of responses. Or let models respond first, all with the same random numbers:

    dschat-compare --models WPR=runs/wpr/step-100/actor KL=runs/kl/step-100/actor \
        --reference_models SFT=runs/sft --dataset Dahoas/rm-static --reward_model runs/rm/step_96
"""

from __future__ import annotations

from dschat.runtime.script import run_script
from dschat.settings.comparison import COMPARE


def main(description: str | None = __doc__) -> None:
    """Parse the flags and compare."""

    def run() -> None:
        config = COMPARE.parse(description=description)

        from dschat.evaluation.comparison.run import compare

        compare(config)

    run_script(run)
