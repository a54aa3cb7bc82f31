"""The checks of online training's settings: what needs nothing but their values.

`config` is an `OnlineConfig` throughout (`dschat.settings.online`, which imports this file).
Messages name flags as the script's user types them: `config.flag(name)`.
"""

from __future__ import annotations

from typing import Any

from dschat.settings.algorithms.dynamic_sampling import check_dynamic_sampling
from dschat.settings.algorithms.loss_flags import fill_in_loss
from dschat.settings.command_line import require
from dschat.settings.flags import require_at_least
from dschat.settings.registry import ADVANTAGES
from dschat.settings.regularizers.published import check_penalty
from dschat.settings.regularizers.reference_schedule import check_reference_schedule
from dschat.settings.regularizers.trust_regions import refuse_clipping
from dschat.settings.rollout.backends import require_backend
from dschat.settings.rollout.correction import require_correction
from dschat.settings.supervised import check_training

AT_LEAST_ONE = [
    "per_device_generation_batch_size",
    "per_device_training_batch_size",
    "generation_batches",
    "ppo_epochs",
    "gradient_accumulation_steps",
    "num_generations",
    "max_prompt_seq_len",
    "max_answer_seq_len",
    "print_answers_interval",
    "ngram",
    "repeat_times",
    "eval_samples",
    "eval_batch_size",
]
NOT_NEGATIVE = [
    "num_padding_at_beginning",
    "num_warmup_steps",
    "save_steps",
    "eval_steps",
    "few_shot",
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
POSITIVE = [
    "actor_learning_rate",
    "critic_learning_rate",
    "actor_lora_learning_rate",
    "critic_lora_learning_rate",
    "temperature",
    "clip_range_high",
    "num_train_epochs",
]
PROBABILITIES = ["gamma", "lam", "warmup_ratio", "clip_range"]

GROUPED = ("grpo", "rloo", "reinforce++_baseline")
"""Estimators of advantages that compare a response with others to the same prompt."""

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
    "clip_range_value",
]
"""What has no meaning without a critic."""


def check(config: Any) -> None:
    """Fill in what follows from other settings, and refuse what does not fit.

    Raises:
        UserError: says which flag, and what was expected.
    """
    _require_models(config)
    _require_ranges(config)
    check_training(config)
    _require_algorithm(config)
    fill_in_loss(config)
    check_dynamic_sampling(config)
    _require_references(config)
    check_penalty(config)
    check_reference_schedule(config)
    refuse_clipping(config)
    require_backend(config)
    require_correction(config)
    _require_batches(config)
    _require_macro_actions(config)
    _require_partners(config)


def _require_models(config: Any) -> None:
    flag = config.flag
    references = config.references()
    if config.actor_model_name_or_path is None and references:
        config.actor_model_name_or_path = references[0][0]
    require(
        config.actor_model_name_or_path is not None,
        f"Give the policy to start from: {flag('actor_model_name_or_path')} FOLDER (step 1's "
        "output), or references, the first of which is then taken.",
    )
    require(
        config.output_dir is not None,
        f"Give a folder for the results: {flag('output_dir')} FOLDER.",
    )
    critic = flag("critic_model_name_or_path")
    if config.uses_reward_model:
        require(
            config.critic_model_name_or_path is not None,
            f"Give the reward model (step 2's output_dir/step_N): {critic} FOLDER.",
        )
    elif config.trains_critic:
        # Without a reward model the critic starts from the policy, knowing nothing.
        config.critic_model_name_or_path = (
            config.critic_model_name_or_path or config.actor_model_name_or_path
        )
    else:
        require(
            config.critic_model_name_or_path is None,
            f"{critic}: {flag('algorithm')} {config.algorithm} has no critic, and no reward model "
            "is used. Remove the flag.",
        )


def _require_ranges(config: Any) -> None:
    seconds = config.reward_timeout
    require(
        seconds is None or seconds > 0,
        f"{config.flag('reward_timeout')} {seconds}: expected seconds above 0, or leave it out.",
    )
    require_at_least(config, 1, *AT_LEAST_ONE)
    require_at_least(config, 0, *NOT_NEGATIVE)
    for names, holds, expected in (
        (POSITIVE, lambda v: v > 0, "a number above 0"),
        (PROBABILITIES, lambda v: 0 <= v <= 1, "a number from 0 to 1"),
    ):
        for name in names:
            value = getattr(config, name)
            require(
                value is None or holds(value), f"{config.flag(name)} {value}: expected {expected}."
            )
    for name in ("actor_zero_stage", "critic_zero_stage"):
        value = getattr(config, name)
        require(value in (0, 1, 2, 3), f"{config.flag(name)} {value}: expected 0, 1, 2 or 3.")
    require(
        config.max_steps >= 1 or config.max_steps == -1,
        f"{config.flag('max_steps')} {config.max_steps}: expected 1 or more, or -1 for whole "
        "epochs.",
    )
    require(
        all(k >= 1 for k in config.pass_k) or config.pass_k == [0],
        f"{config.flag('pass_k')} {' '.join(map(str, config.pass_k))}: expected numbers of 1 or "
        "more, or 0.",
    )


def _require_algorithm(config: Any) -> None:
    """Refuse what the chosen algorithm does not use."""
    flag, estimator = config.flag, config.estimator
    algorithm, scale = flag("algorithm"), flag("scale_rewards")
    chosen = f"{algorithm} {config.algorithm}"
    if config.advantage is not None:
        require(
            "algorithm" not in config.given,
            f"{algorithm} and {flag('advantage')} both choose what estimates advantages. Give one "
            "of them.",
        )
        chosen = f"{flag('advantage')} {estimator}"
    require(
        not config.from_samples or not config.trains_critic,
        f"--kl_type fkl with {chosen} needs --fkl_estimator per_state: the references' samples are "
        "trained on beside groups (grpo, rloo), not beside a critic.",
    )
    require(
        not config.scale_rewards or estimator == "grpo",
        f"{scale} belongs to {algorithm} grpo. Remove it.",
    )
    used = {"gamma"} if getattr(ADVANTAGES[estimator].settings, "discounts", False) else set()
    given = [flag(f) for f in CRITIC_FLAGS if f in config.given and f not in used]
    require(
        config.trains_critic or not given,
        f"{', '.join(given)}: {chosen} has no critic and does not discount. Remove these flags, or "
        f"use {algorithm} ppo.",
    )
    require(
        estimator not in GROUPED or config.group_size() >= 2,
        f"{flag('num_generations')} {config.group_size()}: {chosen} compares a response with "
        "others to the same prompt; give 2 or more.",
    )
    samples = config.penalty.reference_samples if config.from_samples else 1
    require(
        1 <= samples <= config.group_size(),
        f"--reference_samples {samples}: expected 1 to {flag('num_generations')} "
        f"{config.group_size()}.",
    )


def _require_references(config: Any) -> None:
    """Refuse settings of references that do not fit together."""
    flag = config.flag
    for name in ("reference_residency", "reference_quantization"):
        require(
            not config.reference_is_the_policy() or name not in config.given,
            f"{flag(name)}: with {flag('only_optimize_lora')} the reference is the policy itself "
            "with its adapters off; there is no second model to put anywhere. Remove the flag.",
        )
    nothing_frozen = config.reference_is_the_policy() and (
        config.reward_is_the_critic() or not config.uses_reward_model
    )
    what = "the reward model is the critic itself"
    if not config.uses_reward_model:
        what = "there is no reward model"
    for name in ("offload_reference_model", "frozen_dtype"):
        require(
            not (nothing_frozen and getattr(config, name)),
            f"{flag(name)}: with {flag('only_optimize_lora')} the reference is the policy itself, "
            f"and {what}. Remove the flag.",
        )
    residency, offload = flag("reference_residency"), flag("offload_reference_model")
    require(
        not config.offload_reference_model or config.reference_residency in (None, "cpu"),
        f"{offload} and {residency} {config.reference_residency} contradict each other. Give one "
        "of them.",
    )
    require(
        config.reference_quantization is None or config.reference_residency != "cpu",
        f"{flag('reference_quantization')} with {residency} cpu: quantised weights stay on their "
        f"device. Use {residency} one or all.",
    )
    require(
        config.reference_quantization is None or not config.offload_reference_model,
        f"{flag('reference_quantization')} with {offload}: quantised weights stay on their device. "
        f"Use {residency} one.",
    )
    several = len(config.references()) > 1
    require(
        not (several and config.of_mixture) or config.reference_residency in (None, "all"),
        f"--fkl_estimator per_state needs all references at once: use {residency} all.",
    )


def require_plain_cache(config: Any, plain_cache: bool, architecture: str) -> None:
    """Refuse to keep states that the project's own decoding does not see; raises `UserError`.

    Args:
        plain_cache: whether it samples from the policy (`has_plain_cache`).
        architecture: of the policy, for the message.
    """
    require(
        plain_cache or not config.reuse_rollout_logprobs,
        f"{config.flag('reuse_rollout_logprobs')}: {architecture} is sampled from by transformers "
        "(its attention does not keep plain keys and values), which shows no hidden states. Remove "
        "the flag.",
    )


def _require_batches(config: Any) -> None:
    """One generation batch is cut into whole micro-batches, those into whole steps."""
    flag = config.flag
    generation = config.per_device_generation_batch_size
    training = config.per_device_training_batch_size
    generated = flag("per_device_generation_batch_size")
    trained = flag("per_device_training_batch_size")
    require(
        generation % training == 0,
        f"{generated} {generation} is no multiple of {trained} {training}: every generation batch "
        "is cut into whole micro-batches. Change one of the two.",
    )
    micro_batches = generation * config.generation_batches // training
    accumulation = config.gradient_accumulation_steps
    require(
        micro_batches % accumulation == 0 or accumulation % micro_batches == 0,
        f"An iteration's {micro_batches} micro-batches per rank (generation batch size x "
        f"generation batches / training batch size) and {flag('gradient_accumulation_steps')} "
        f"{accumulation} do not divide each other. Change one of them.",
    )


def _require_macro_actions(config: Any) -> None:
    """Flags of groupings that are not used would do nothing."""
    flag, kind = config.flag, config.termination_condition
    condition = flag("termination_condition")
    for names, of in (
        (["ngram"], "fixed"),
        (["repeat_times"], "randomized"),
        (["parser", "parser_cutoff"], "parsing"),
    ):
        for name in names:
            require(
                kind == of or name not in config.given,
                f"{flag(name)} belongs to {condition} {of}. Remove it.",
            )
    require(
        config.parser_cutoff >= 2,
        f"{flag('parser_cutoff')} {config.parser_cutoff}: expected 2 or more (no constituent has "
        f"fewer than 1 token). For single tokens use {condition} fixed {flag('ngram')} 1.",
    )


def _require_partners(config: Any) -> None:
    """Refuse flags that would do nothing without another one."""
    flag, given = config.flag, config.given
    roles = ["actor", "critic"] if config.trains_critic else ["actor"]
    lora = config.actor_lora_dim or config.critic_lora_dim
    text = config.unsupervised_dataset_name
    for holds, message in (
        (
            not (config.num_warmup_steps and config.warmup_ratio and "warmup_ratio" in given),
            f"{flag('num_warmup_steps')} and {flag('warmup_ratio')} both set the warm-up; give one "
            "of them.",
        ),
        (
            config.enable_test_mode == (config.test_stop_step > 0),
            f"{flag('enable_test_mode')} needs {flag('test_stop_step')} N with N of 1 or more, and "
            "the other way round.",
        ),
        (
            not config.offload or all(getattr(config, f"{role}_zero_stage") for role in roles),
            f"{flag('offload')} needs a ZeRO stage of 1 or more for every model that is trained: "
            f"set {' and '.join(flag(f'{role}_zero_stage') for role in roles)}.",
        ),
        (
            not config.enable_zero3_generation_gather or config.actor_zero_stage == 3,
            f"{flag('enable_zero3_generation_gather')}: the actor is in ZeRO stage "
            f"{config.actor_zero_stage}, where it is whole. Remove the flag.",
        ),
        (
            text or config.unsupervised_dataset_config_name is None,
            f"{flag('unsupervised_dataset_config_name')} needs "
            f"{flag('unsupervised_dataset_name')}.",
        ),
        (
            text or "unsup_coef" not in given,
            f"{flag('unsup_coef')} {config.unsup_coef:g} needs text: add "
            f"{flag('unsupervised_dataset_name')}.",
        ),
        (
            config.unsup_coef > 0 or not text,
            f"{flag('unsup_coef')} 0 would train on text for nothing: remove "
            f"{flag('unsupervised_dataset_name')}.",
        ),
        (
            lora or not config.only_optimize_lora,
            f"{flag('only_optimize_lora')} needs adapters: add {flag('actor_lora_dim')} or "
            f"{flag('critic_lora_dim')}.",
        ),
        *(
            (
                getattr(config, f"{role}_lora_dim")
                or getattr(config, f"{role}_lora_learning_rate") is None,
                f"{flag(f'{role}_lora_learning_rate')} needs adapters: add "
                f"{flag(f'{role}_lora_dim')}.",
            )
            for role in ("actor", "critic")
        ),
        *(
            (
                config.checks_answers or name not in given,
                f"{flag(name)} is of checked answers: it belongs to {flag('reward')} math. "
                "Remove it.",
            )
            for name in ("eval_steps", "eval_samples", "pass_k")
        ),
        (
            config.print_answers or "print_answers_interval" not in given,
            f"{flag('print_answers_interval')} {config.print_answers_interval} needs "
            f"{flag('print_answers')}.",
        ),
        (
            not config.add_eot_token or config.end_of_conversation_token is not None,
            f"{flag('add_eot_token')} needs the token: {flag('end_of_conversation_token')} "
            "'<|end|>', for example.",
        ),
    ):
        require(bool(holds), message)
