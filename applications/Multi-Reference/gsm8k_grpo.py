"""GRPO with several references (Aminian et al., arXiv 2502.01203): docs/multi_reference.md.

python gsm8k_grpo.py --dataset gsm8k --ref_a Qwen/Qwen2.5-0.5B-Instruct \
    --ref_b Qwen/Qwen2.5-Math-1.5B --kl_type rkl --alpha 0.5 --gamma 0.1 \
    --model_out ./runs/gsm8k_rkl_a05 --per_device_train_batch_size 4 \
    --gradient_accumulation_steps 8 --max_steps 2000 --bf16

Several GPUs: deepspeed gsm8k_grpo.py ... A file of settings: gsm8k_grpo.py config.yaml ...
"""

from dschat.settings.command_line import parse_config, run_script
from dschat.settings.group import MultiReferenceConfig
from dschat.settings.group_flags import REPLACED_GROUP_FLAGS


def main() -> None:
    """Parse the flags and train."""
    replaced = REPLACED_GROUP_FLAGS
    config = parse_config(MultiReferenceConfig, description=__doc__, replaced_flags=replaced)

    from dschat.online.group_run import train_multi_reference

    train_multi_reference(config)


if __name__ == "__main__":
    run_script(main)
