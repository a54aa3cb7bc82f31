r"""Step 3: PPO, GRPO or RLOO, near the reference by any regularizer.

    dschat-ppo --actor_model_name_or_path models/sft \
        --critic_model_name_or_path models/reward/step_581 \
        --data_path openai/summarize_from_feedback --f_div rkl --kl_ctl 0.05 \
        --output_dir models/ppo
"""

from __future__ import annotations

from typing import Any

from dschat.runtime.script import run_script
from dschat.settings.code_online import DivergenceCodeConfig, WassersteinCodeConfig
from dschat.settings.command_line import CommandLine
from dschat.settings.penalty import DivergenceConfig, WassersteinConfig

COMMAND_LINE: CommandLine[Any] = CommandLine(DivergenceConfig, __doc__)
WASSERSTEIN: CommandLine[Any] = CommandLine(WassersteinConfig)
PROGRAMS: CommandLine[Any] = CommandLine(DivergenceCodeConfig)
WASSERSTEIN_PROGRAMS: CommandLine[Any] = CommandLine(WassersteinCodeConfig)


def main(description: str | None = __doc__, command_line: CommandLine[Any] = COMMAND_LINE) -> None:
    """Parse the flags and train."""

    def run() -> None:
        config = command_line.parse(description=description)

        if command_line in (PROGRAMS, WASSERSTEIN_PROGRAMS):
            from dschat.online.code_run import train_on_programs

            train_on_programs(config)
        else:
            from dschat.online.run import train_online

            train_online(config)

    run_script(run)
