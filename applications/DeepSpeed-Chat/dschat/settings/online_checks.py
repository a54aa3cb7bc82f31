"""Checks of step 3's settings that need nothing but their values."""

from __future__ import annotations

import dataclasses
from typing import Any

from dschat.settings.command_line import require
from dschat.settings.references import check_weights


def require_ranges(config: Any) -> None:
    """Refuse numbers outside their range; raises `UserError`."""
    at_least_one = [
        "per_device_generation_batch_size",
        "per_device_training_batch_size",
        "generation_batches",
        "ppo_epochs",
        "num_train_epochs",
        "gradient_accumulation_steps",
        "num_generations",
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
        "entropy_coef",
        "unsup_coef",
        "clip_reward_value",
        "actor_weight_decay",
        "critic_weight_decay",
    ]
    positive = ["actor_learning_rate", "critic_learning_rate", "temperature", "epsilon_high"]
    probabilities = ["gamma", "lam", "warmup_ratio", "clip_range"]
    for names, holds, expected in (
        (at_least_one, lambda v: v >= 1, "1 or more"),
        (not_negative, lambda v: v >= 0, "0 or more"),
        (positive, lambda v: v > 0, "a number above 0"),
        (probabilities, lambda v: 0 <= v <= 1, "a number from 0 to 1"),
    ):
        for name in names:
            value = getattr(config, name)
            require(value is None or holds(value), f"--{name} {value}: expected {expected}.")
    for name in ("actor_zero_stage", "critic_zero_stage"):
        value = getattr(config, name)
        require(value in (0, 1, 2, 3), f"--{name} {value}: expected 0, 1, 2 or 3.")


CRITIC_FLAGS = [
    "gamma",
    "lam",
    "termination_condition",
    "ngram",
    "repeat_times",
    "parser",
    "parser_cutoff",
    "value_function",
    "critic_learning_rate",
    "critic_weight_decay",
    "critic_dropout",
    "critic_zero_stage",
    "critic_gradient_checkpointing",
    "critic_lora_dim",
    "critic_lora_module_name",
    "critic_lora_learning_rate",
    "align_overflow",
]
"""What has no meaning without a critic."""


def require_algorithm(config: Any) -> None:
    """Refuse what the chosen algorithm does not use; raises `UserError`."""
    name = config.algorithm
    if name == "ppo":
        require(not config.scale_rewards, "--scale_rewards belongs to --algorithm grpo. Remove it.")
        return
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    given = [f for f in CRITIC_FLAGS if f in defaults and getattr(config, f) != defaults[f]]
    require(
        not given,
        f"{', '.join('--' + f for f in given)}: --algorithm {name} has no critic and does not "
        "discount. Remove these flags, or use --algorithm ppo.",
    )
    require(
        config.group_size() >= 2,
        f"--num_generations {config.group_size()}: --algorithm {name} compares a response with "
        "others to the same prompt; give 2 or more.",
    )
    require(
        name == "grpo" or not config.scale_rewards,
        "--scale_rewards belongs to --algorithm grpo: leave-one-out advantages are unbiased as "
        "they are. Remove the flag.",
    )


def reference_is_the_policy(config: Any) -> bool:
    """Whether the actor with its adapters off is the reference: no second model is loaded.

    A new token's row is trained beside the adapters (`train_rows`): then there are two models.
    """
    frozen = config.only_optimize_lora and not config.add_eot_token
    return config.refs is None and config.actor_lora_dim > 0 and frozen


def reward_is_the_critic(config: Any) -> bool:
    """Whether the critic with its adapters off and its first head is the reward model.

    Then no reward model is loaded. (Where programs are run there is none anyway.)
    """
    trained = config.algorithm == "ppo" and not config.critic_head_may_be_new
    frozen = config.only_optimize_lora and not config.add_eot_token
    return trained and config.critic_lora_dim > 0 and frozen


def require_references(config: Any) -> None:
    """Refuse settings of references that do not fit together; raises `UserError`."""
    require(
        config.ref_weights is None or config.refs is not None,
        "--ref_weights needs the references: add --refs FOLDER FOLDER.",
    )
    if config.refs is not None:
        check_weights(config.refs, config.ref_weights)
    for name in ("reference_residency", "reference_quantization"):
        require(
            not reference_is_the_policy(config) or getattr(config, name) is None,
            f"--{name}: with --only_optimize_lora the reference is the policy itself with its "
            "adapters off; there is no second model to put anywhere. Remove the flag.",
        )
    programs = config.critic_head_may_be_new  # are run instead of a reward model
    nothing_frozen = reference_is_the_policy(config) and (programs or reward_is_the_critic(config))
    what = "there is no reward model" if programs else "the reward model is the critic itself"
    for name in ("offload_reference_model", "frozen_dtype"):
        require(
            not (nothing_frozen and getattr(config, name)),
            f"--{name}: with --only_optimize_lora the reference is the policy itself, and {what}. "
            "Remove the flag.",
        )
    require(
        not config.offload_reference_model or config.reference_residency in (None, "cpu"),
        f"--offload_reference_model and --reference_residency {config.reference_residency} "
        "contradict each other. Give one of them.",
    )
    require(
        config.reference_quantization is None or config.reference_residency != "cpu",
        "--reference_quantization with --reference_residency cpu: quantised weights stay on "
        "their device. Use --reference_residency one or all.",
    )
    require(
        config.reference_quantization is None or not config.offload_reference_model,
        "--reference_quantization with --offload_reference_model: quantised weights stay on "
        "their device. Use --reference_residency one.",
    )


def _zero_stages(config: Any) -> list[int]:
    stages = [config.actor_zero_stage]
    return [*stages, config.critic_zero_stage] if config.algorithm == "ppo" else stages


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
            not config.offload or min(_zero_stages(config)) > 0,
            "--offload needs a ZeRO stage of 1 or more for every model that is trained: set "
            "--actor_zero_stage and, for ppo, --critic_zero_stage.",
        ),
        (
            not config.enable_zero3_generation_gather or config.actor_zero_stage == 3,
            f"--enable_zero3_generation_gather: the actor is in ZeRO stage "
            f"{config.actor_zero_stage}, where it is whole. Remove the flag.",
        ),
        (
            config.unsupervised_dataset_name or config.unsupervised_dataset_config_name is None,
            "--unsupervised_dataset_config_name needs --unsupervised_dataset_name.",
        ),
        (
            config.unsupervised_dataset_name or config.unsup_coef == 27.8,
            f"--unsup_coef {config.unsup_coef:g} needs text: add --unsupervised_dataset_name.",
        ),
        (
            config.unsup_coef > 0 or not config.unsupervised_dataset_name,
            "--unsup_coef 0 would train on text for nothing: remove --unsupervised_dataset_name.",
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
            config.print_answers or config.print_answers_interval == 1,
            f"--print_answers_interval {config.print_answers_interval} needs --print_answers.",
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
