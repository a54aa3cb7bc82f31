r"""Compare two models' responses to the same prompts: rewards, ROUGE, the largest differences.

    dschat-compare results/wpr_step-100.jsonl results/kl_step-100.jsonl \
        --references openai/summarize_from_feedback --output comparison
"""

from __future__ import annotations

from dschat.runtime.script import run_script
from dschat.settings.responses import COMPARE


def main(description: str | None = __doc__) -> None:
    """Parse the flags and compare."""

    def run() -> None:
        config = COMPARE.parse(description=description)

        from dschat.evaluation.responses.compare import compare

        compare(config)

    run_script(run)
