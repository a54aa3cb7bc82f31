r"""DPO with several references (Aminian et al., arXiv 2502.01203): docs/multi_reference.md.

    python dpo_training.py --dataset ultrafeedback --ref_a Qwen/Qwen2.5-0.5B-Instruct \
        --ref_b Qwen/Qwen2.5-1.5B --kl_type rkl --alpha 0.5 --gamma 1.0 \
        --output_dir ./runs/dpo_ultra_rkl_a05 --per_device_train_batch_size 2 \
        --gradient_accumulation_steps 16 --num_train_epochs 1 --bf16

Several GPUs: deepspeed dpo_training.py ... A file of settings: dpo_training.py config.yaml ...
"""

from dschat.commands.dpo import main

if __name__ == "__main__":
    main(__doc__)
