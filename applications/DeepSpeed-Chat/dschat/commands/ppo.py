r"""Step 3: PPO, GRPO or RLOO, near the reference by any regularizer.

    dschat-ppo --actor_model_name_or_path models/sft \
        --critic_model_name_or_path models/reward/step_581 \
        --data_path openai/summarize_from_feedback --f_div rkl --kl_ctl 0.05 \
        --output_dir models/ppo
"""

from __future__ import annotations

import dataclasses

from dschat.runtime.script import run_script
from dschat.settings.command_line import CommandLine
from dschat.settings.online import OnlineConfig
from dschat.settings.online_scripts import PPO, PPO_APPS, WPR, WPR_APPS

COMMAND_LINE = dataclasses.replace(PPO, description=__doc__)
WASSERSTEIN, PROGRAMS, WASSERSTEIN_PROGRAMS = WPR, PPO_APPS, WPR_APPS


def main(
    description: str | None = __doc__, command_line: CommandLine[OnlineConfig] = COMMAND_LINE
) -> None:
    """Parse the flags and train."""

    def run() -> None:
        config = command_line.parse(description=description)

        from dschat.online.run import train_online

        train_online(config)

    run_script(run)
