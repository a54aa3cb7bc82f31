r"""Answer held-out prompts with a trained policy and score the answers with a reward model.

    dschat-respond --proj-path runs --dataset summarize --model models/ppo/step-100 \
        --reward-model models/reward/step_581 --temperature 0.8 --batch-size 16
"""

from __future__ import annotations

from dschat.runtime.script import run_script
from dschat.settings.command_line import CommandLine
from dschat.settings.inference import REPLACED_CODE_FLAGS, CodeInferenceConfig, InferenceConfig

COMMAND_LINE = CommandLine(InferenceConfig, __doc__)
PROGRAMS = CommandLine(CodeInferenceConfig, refused=REPLACED_CODE_FLAGS)


def main(description: str | None = __doc__) -> None:
    """Parse the flags, respond and score."""

    def run() -> None:
        config = COMMAND_LINE.parse(description=description)

        from dschat.evaluation.respond.run import run_inference

        run_inference(config)

    run_script(run)


def programs(description: str | None = None) -> None:
    """Parse the flags, write programs and run their tests."""

    def run() -> None:
        config = PROGRAMS.parse(description=description)

        from dschat.evaluation.respond.code_run import run_code_inference

        run_code_inference(config)

    run_script(run)
