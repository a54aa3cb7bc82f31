r"""Step 1: fine-tune a causal language model on the chosen responses.

    dschat-sft --data_path openai/summarize_from_feedback --data_split 2,4,4 \
        --model_name_or_path google/gemma-2b --max_seq_len 1024 --learning_rate 5e-5 \
        --per_device_train_batch_size 8 --gradient_accumulation_steps 8 --num_train_epochs 3 \
        --output_dir models/sft
"""

from __future__ import annotations

from dschat.runtime.script import run_script
from dschat.settings.command_line import CommandLine
from dschat.settings.supervised import SupervisedConfig

COMMAND_LINE = CommandLine(SupervisedConfig, __doc__)


def main(description: str | None = __doc__) -> None:
    """Parse the flags and train."""

    def run() -> None:
        config = COMMAND_LINE.parse(description=description)

        from dschat.supervised.sft import run_sft

        run_sft(config)

    run_script(run)
