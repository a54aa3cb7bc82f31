"""GRPO on the sentence task: the settings of gsm8k_grpo.py with a reward of one's own.

    python -m dschat.example.sentences_grpo --refs MODEL --dataset DIR --output_dir RUN \
        --learning_rate 2e-5 --lr_scheduler_type constant --gamma 0.05 --max_steps 25

The model and its one reference are --refs; DIR is what `dschat.example.sentences` has written.
"""

from __future__ import annotations

import dataclasses

from dschat.runtime.script import run_script
from dschat.settings.command_line import parse_config, require
from dschat.settings.group import MultiReferenceConfig
from dschat.settings.group_flags import REPLACED_GROUP_FLAGS

NOT_HERE = ("answer_extraction", "few_shot", "eval_steps", "eval_samples", "pass_k")


def check_flags(config: MultiReferenceConfig) -> None:
    """Refuse flags of checked answers, which would do nothing here; raises `UserError`."""
    for field in dataclasses.fields(config):
        if field.name.endswith("_reward") or field.name in NOT_HERE:
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            require(
                getattr(config, field.name) == default,
                f"--{field.name} is about answers to problems; this task has its own reward.",
            )


def main() -> None:
    """Parse the flags and train."""
    config = parse_config(
        MultiReferenceConfig, description=__doc__, replaced_flags=REPLACED_GROUP_FLAGS
    )
    check_flags(config)

    from dschat.example.sentence_check import SentenceReward
    from dschat.online.group_run import task_of
    from dschat.online.run import train_online
    from dschat.settings.group import own_flag_names

    task = dataclasses.replace(task_of(config), reward=SentenceReward(), evaluate=None)
    with own_flag_names(config):
        train_online(config.online(), task)


if __name__ == "__main__":
    run_script(main)
