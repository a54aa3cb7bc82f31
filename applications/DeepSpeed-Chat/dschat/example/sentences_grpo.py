"""GRPO on the sentence task: the settings of gsm8k_grpo.py with a reward of one's own.

    python -m dschat.example.sentences_grpo --refs MODEL --dataset DIR --output_dir RUN \
        --learning_rate 2e-5 --lr_scheduler_type constant --gamma 0.05 --max_steps 25

The model and its one reference are --refs; DIR is what `dschat.example.sentences` has written.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dschat.runtime.script import run_script
from dschat.settings.command_line import CommandLine
from dschat.settings.online import OnlineConfig
from dschat.settings.online_scripts import GRPO

REWARD = f"{Path(__file__).with_name('sentence_check.py')}:SentenceReward"


def command() -> CommandLine[OnlineConfig]:
    """That of gsm8k_grpo.py, with this task's reward."""
    return dataclasses.replace(
        GRPO, description=__doc__, preset={**GRPO.preset, "reward": [REWARD]}
    )


def main() -> None:
    """Parse the flags and train."""
    config = command().parse()
    from dschat.online.run import train_online

    train_online(config)


if __name__ == "__main__":
    run_script(main)
