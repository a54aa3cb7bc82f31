r"""GRPO with several references (Aminian et al., arXiv 2502.01203): docs/multi_reference.md.

    python gsm8k_grpo.py --dataset gsm8k --ref_a Qwen/Qwen2.5-0.5B-Instruct \
        --ref_b Qwen/Qwen2.5-Math-1.5B --kl_type rkl --alpha 0.5 --gamma 0.1 \
        --model_out ./runs/gsm8k_rkl_a05 --per_device_train_batch_size 4 \
        --gradient_accumulation_steps 8 --max_steps 2000 --bf16

Several GPUs: deepspeed gsm8k_grpo.py ... A file of settings: gsm8k_grpo.py config.yaml ...
"""

from dschat.commands.grpo import main

if __name__ == "__main__":
    main(__doc__)
