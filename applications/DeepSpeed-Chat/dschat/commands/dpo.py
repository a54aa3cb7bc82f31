r"""DPO with one or more references (Aminian et al., arXiv 2502.01203).

    dschat-dpo --dataset ultrafeedback --ref_a Qwen/Qwen2.5-0.5B-Instruct \
        --ref_b Qwen/Qwen2.5-1.5B --kl_type rkl --alpha 0.5 --gamma 1.0 \
        --per_device_train_batch_size 2 --gradient_accumulation_steps 16 --bf16 \
        --output_dir runs/dpo
"""

from __future__ import annotations

from dschat.runtime.script import run_script
from dschat.settings.command_line import CommandLine
from dschat.settings.dpo import REPLACED_DPO_FLAGS, DirectPreferenceConfig

COMMAND_LINE = CommandLine(DirectPreferenceConfig, __doc__, REPLACED_DPO_FLAGS)


def main(description: str | None = __doc__) -> None:
    """Parse the flags and train."""

    def run() -> None:
        config = COMMAND_LINE.parse(description=description)

        from dschat.supervised.dpo import run_dpo

        run_dpo(config)

    run_script(run)
