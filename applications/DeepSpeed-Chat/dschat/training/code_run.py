"""Online training on programs that are run: the reward, for the trainer."""

from __future__ import annotations

from typing import cast

from dschat.rewards.code_execution import CodeExecutionReward, Limits, Sandbox
from dschat.training.code_config import CodeRewardFlags
from dschat.training.online import Task, train_online


def code_reward(config: CodeRewardFlags) -> CodeExecutionReward:
    """The reward that the settings describe.

    Raises:
        UserError: the sandbox asked for does not work here.
    """
    limits = Limits(
        test_seconds=config.test_seconds,
        program_seconds=config.program_seconds,
        memory_mb=config.memory_mb,
    )
    return CodeExecutionReward(config.reward_workers, cast(Sandbox, config.sandbox), limits)


def train_on_programs(config: CodeRewardFlags) -> None:
    """Step 3 on APPS: align a policy by what its programs do.

    Raises:
        UserError: something the user gave cannot be used.
    """
    train_online(config, Task(reward=code_reward(config)))
