r"""GRPO or RLOO on checked answers, with one or more references (arXiv 2502.01203).

    dschat-grpo --dataset gsm8k --ref_a Qwen/Qwen2.5-0.5B-Instruct \
        --ref_b Qwen/Qwen2.5-Math-1.5B --kl_type rkl --alpha 0.5 --gamma 0.1 \
        --per_device_train_batch_size 4 --gradient_accumulation_steps 8 --max_steps 2000 --bf16 \
        --output_dir runs/grpo
"""

from __future__ import annotations

import dataclasses

from dschat.runtime.script import run_script
from dschat.settings.online_scripts import GRPO

COMMAND_LINE = dataclasses.replace(GRPO, description=__doc__)


def main(description: str | None = __doc__) -> None:
    """Parse the flags and train."""

    def run() -> None:
        config = COMMAND_LINE.parse(description=description)

        from dschat.online.run import train_online

        train_online(config)

    run_script(run)
