"""Online training on programs that are run: the reward, for the trainer."""

from __future__ import annotations

from dschat.online.run import Task, train_online
from dschat.rewards.code_execution import code_reward
from dschat.settings.code_online import CodeRewardFlags


def train_on_programs(config: CodeRewardFlags) -> None:
    """Step 3 on APPS: align a policy by what its programs do.

    Raises:
        UserError: something the user gave cannot be used.
    """
    train_online(config, Task(reward=code_reward(config)))
