"""Checks of step 3's settings that need nothing but their values."""

from __future__ import annotations

from typing import Any

from dschat.config import require


def require_ranges(config: Any) -> None:
    """Refuse numbers outside their range; raises `UserError`."""
    at_least_one = [
        "per_device_generation_batch_size",
        "per_device_training_batch_size",
        "generation_batches",
        "ppo_epochs",
        "num_train_epochs",
        "gradient_accumulation_steps",
        "max_prompt_seq_len",
        "max_answer_seq_len",
        "print_answers_interval",
    ]
    not_negative = [
        "num_padding_at_beginning",
        "num_warmup_steps",
        "save_steps",
        "test_stop_step",
        "seed",
        "actor_lora_dim",
        "critic_lora_dim",
        "kl_ctl",
        "clip_reward_value",
        "actor_weight_decay",
        "critic_weight_decay",
    ]
    positive = ["actor_learning_rate", "critic_learning_rate", "temperature"]
    probabilities = ["gamma", "lam", "warmup_ratio"]
    for names, holds, expected in (
        (at_least_one, lambda v: v >= 1, "1 or more"),
        (not_negative, lambda v: v >= 0, "0 or more"),
        (positive, lambda v: v > 0, "a number above 0"),
        (probabilities, lambda v: 0 <= v <= 1, "a number from 0 to 1"),
    ):
        for name in names:
            value = getattr(config, name)
            require(holds(value), f"--{name} {value}: expected {expected}.")
    for name in ("actor_zero_stage", "critic_zero_stage"):
        value = getattr(config, name)
        require(value in (0, 1, 2, 3), f"--{name} {value}: expected 0, 1, 2 or 3.")


def require_partners(config: Any) -> None:
    """Refuse flags that would do nothing without another one; raises `UserError`."""
    lora = config.actor_lora_dim or config.critic_lora_dim
    end = config.end_of_conversation_token
    for holds, message in (
        (
            config.enable_test_mode == (config.test_stop_step > 0),
            "--enable_test_mode needs --test_stop_step N with N of 1 or more, and the other "
            "way round.",
        ),
        (
            not config.offload or min(config.actor_zero_stage, config.critic_zero_stage) > 0,
            "--offload needs a ZeRO stage of 1 or more for both models: set "
            "--actor_zero_stage and --critic_zero_stage.",
        ),
        (
            not config.enable_zero3_generation_gather or config.actor_zero_stage == 3,
            f"--enable_zero3_generation_gather: the actor is in ZeRO stage "
            f"{config.actor_zero_stage}, where it is whole. Remove the flag.",
        ),
        (
            lora or not config.only_optimize_lora,
            "--only_optimize_lora needs adapters: add --actor_lora_dim or --critic_lora_dim.",
        ),
        (
            config.actor_lora_dim or config.actor_lora_learning_rate is None,
            "--actor_lora_learning_rate needs adapters: add --actor_lora_dim.",
        ),
        (
            config.critic_lora_dim or config.critic_lora_learning_rate is None,
            "--critic_lora_learning_rate needs adapters: add --critic_lora_dim.",
        ),
        (
            config.enable_tensorboard or config.tensorboard_path is None,
            "--tensorboard_path has an effect only with --enable_tensorboard; add that flag.",
        ),
        (
            not config.add_eot_token or end is not None,
            "--add_eot_token needs the token: --end_of_conversation_token '<|end|>', for example.",
        ),
    ):
        require(bool(holds), message)
