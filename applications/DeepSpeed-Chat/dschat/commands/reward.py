r"""Step 2: train a reward model on pairs of a chosen and a rejected response.

    dschat-reward --data_path openai/summarize_from_feedback --data_split 2,4,4 \
        --model_name_or_path models/sft --max_seq_len 1024 --learning_rate 1e-5 \
        --per_device_train_batch_size 8 --output_dir models/reward
"""

from __future__ import annotations

from dschat.runtime.script import run_script
from dschat.settings.command_line import CommandLine
from dschat.settings.supervised import RewardModelingConfig

COMMAND_LINE = CommandLine(RewardModelingConfig, __doc__)


def main(description: str | None = __doc__) -> None:
    """Parse the flags and train."""

    def run() -> None:
        config = COMMAND_LINE.parse(description=description)

        from dschat.supervised.reward_modeling import run_reward_modeling

        run_reward_modeling(config)

    run_script(run)
