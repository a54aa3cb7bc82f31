"""The models of an online run, loaded as its settings say: actor, references, critic, reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dschat.checkpoint.model_folder import check_save
from dschat.data.ends import ends_of, set_stops
from dschat.data.prompts import PromptExample
from dschat.models.dropout import largest_dropout
from dschat.models.key_values import plain_model
from dschat.models.loading import (
    DTYPE_NAMES,
    check_same_vocabulary,
    load_causal_lm,
    load_pretrained,
    load_reward_model,
    load_tokenizer,
    resolve_dtype,
)
from dschat.models.lora import add_lora
from dschat.models.output_layer import tokens_of
from dschat.models.policy import PolicyModel, ValueModel, check_output_layer
from dschat.models.references import FrozenPolicy, WithoutAdapters
from dschat.online.references.load_references import (
    check_length,
    load_references,
    reference_paths,
    share_vocabulary,
)
from dschat.rewards import RewardFunction
from dschat.rewards.build import Rewards
from dschat.rewards.critic_reward import CriticWithoutAdapters, frozen_head
from dschat.rewards.reward_model import RewardModel
from dschat.rewards.text_reward import PROMPTS_COMPARED, TextReward
from dschat.runtime import distributed
from dschat.settings.command_line import require
from dschat.settings.online import OnlineConfig
from dschat.settings.online_checks import require_plain_cache


@dataclass
class Models:
    """All models of a run, before DeepSpeed has them."""

    actor: PolicyModel
    critic: ValueModel | None
    references: list[FrozenPolicy]
    reward: RewardFunction


def tokenizer_options(config: OnlineConfig) -> dict[str, Any]:
    """What the flags say about the tokenizer, for `load_tokenizer`."""
    return {
        "end_of_conversation_token": config.end_of_conversation_token,
        "add_eot_token": config.add_eot_token,
        "pad_token": config.pad_token,
    }


def load_tokenizers(config: OnlineConfig) -> Any:
    """The actor's tokenizer, after a look at those of the references and of a given critic.

    Raises:
        UserError: one of their vocabularies is another one.
    """
    from transformers import AutoTokenizer

    actor, critic = config.actor_model_name_or_path, config.critic_model_name_or_path
    assert actor is not None
    name = config.flag_name("actor_model_name_or_path")
    tokenizer = load_tokenizer(actor, name, **tokenizer_options(config))
    others = reference_paths(config) if config.references() else []
    if critic is not None and not config.uses_reward_model:
        others.append((critic, config.flag_name("critic_model_name_or_path")))
    for path, flag in others:
        # Whatever tokens it pads and ends with: the vocabulary is what counts.
        other = load_pretrained(AutoTokenizer, path, flag)
        if config.add_eot_token:
            other.add_special_tokens({"additional_special_tokens": [tokenizer.eos_token]})
        check_same_vocabulary(tokenizer, other, actor, path)
    tokenizer.padding_side = "left"
    set_stops(tokenizer, config)
    return tokenizer


def load_models(
    config: OnlineConfig,
    tokenizer: Any,
    dtype: torch.dtype,
    device: torch.device,
    rewards: Rewards | None = None,
    prompts: Sequence[PromptExample] = (),
) -> Models:
    """Actor, references, critic (for PPO) and, if the rewards need one, the reward model.

    The frozen models go to their device before the next is loaded, so that the host's memory holds
    one model per rank at a time.

    Args:
        rewards: None: those that the settings name.
        prompts: what is answered; a reward model that reads other tokens in them, or that has
            another tokenizer, scores texts.
    """
    actor_path = config.actor_model_name_or_path
    assert actor_path is not None
    frozen_dtype = _frozen_dtype(config, dtype, device)
    _refuse_rounding(config, dtype, frozen_dtype)
    references = load_references(config, tokenizer, frozen_dtype, device)
    critic_path, new_head = critic_start(config, tokenizer)
    rewards = rewards or Rewards(config)
    needs_model = rewards.need_reward_model
    shared = needs_model and config.reward_is_the_critic() and not new_head
    batch = config.per_device_training_batch_size
    reward: RewardFunction | None = None
    texts: TextReward | None = None
    if needs_model:
        flag, pads = config.flag_name("critic_model_name_or_path"), config.num_padding_at_beginning
        path = config.critic_model_name_or_path
        assert path is not None
        texts = TextReward(path, flag, frozen_dtype, device, batch, pads)
        texts = None if texts.reads_tokens(tokenizer, prompts) else texts
    if texts is not None:
        distributed.log_main(
            f"The reward model {texts.path} has another tokenizer or chat template than the "
            "policy: it scores the responses' texts."
        )
        for prompt in prompts[:PROMPTS_COMPARED]:  # what it cannot write is refused now
            texts.encode(prompt.conversation, "Yes.")
    if needs_model and not shared:
        resting = torch.device("cpu") if config.offload_reference_model else None
        own = tokenizer if texts is None else texts.tokenizer
        classifier = _classifier(config, path, own, frozen_dtype, None)
        reward = RewardModel(classifier, own.pad_token_id, batch, device, resting, texts)
    torch.manual_seed(config.seed)
    actor = load_causal_lm(
        actor_path,
        tokenizer,
        dtype,
        config.flag_name("actor_model_name_or_path"),
        config.actor_dropout,
        config.add_eot_token,
    )
    check_output_layer(actor)
    if config.actor_dropout is None and (dropout := largest_dropout(actor)) > 0:
        distributed.log_main(
            f"WARNING: the actor drops with a probability of up to {dropout:g} in training and not "
            "in scoring: probability ratios do not start at 1, and part of what is clipped is "
            "noise. --actor_dropout 0 turns it off."
        )
    check_length(actor.config, config)
    _checkpointing(actor, config.actor_gradient_checkpointing)
    if config.actor_gradient_checkpointing and config.group_size() > 1:
        distributed.log_main(
            f"{config.flag('actor_gradient_checkpointing')}: a group's prompt goes through the "
            "actor once per response, not once per group: layers that recompute their activations "
            "do so without the prompt's keys and values. Results are the same; it takes more time."
        )
    critic = None
    if config.trains_critic:
        classifier = _classifier(
            config, critic_path, tokenizer, dtype, config.critic_dropout, new_head
        )
        _checkpointing(classifier, config.critic_gradient_checkpointing)
        head = frozen_head(classifier) if shared else None
        critic = ValueModel(_with_lora(classifier, "critic", config, tokenizer))
        if head is not None:
            pad = tokenizer.pad_token_id
            reward = CriticWithoutAdapters(critic, head, pad, batch, device, texts)
    policy = PolicyModel(_with_lora(actor, "actor", config, tokenizer), config.temperature)
    if config.reference_is_the_policy():
        references = [WithoutAdapters(policy)]
    share_vocabulary(policy, references, tokens_of(tokenizer))
    return Models(policy, critic, references, rewards.combined(reward))


def check_models(config: OnlineConfig, models: Models, tokenizer: Any) -> None:
    """Refuse, before hours of training, models that could not be saved or sampled from as asked.

    Raises:
        UserError: says what and why.
    """
    assert config.output_dir is not None
    trained = [models.actor.model] + ([models.critic.model] if models.critic else [])
    check_save(trained, tokenizer, config.output_dir)
    architecture = type(plain_model(models.actor.model)).__name__
    require_plain_cache(config, models.actor.plain_cache, architecture)


def _frozen_dtype(config: OnlineConfig, dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Of references and reward model; says what another one than the policy's means."""
    if config.frozen_dtype is None:
        return dtype
    frozen = resolve_dtype(config.frozen_dtype, device, config.flag_name("frozen_dtype"))
    if frozen != dtype and not config.reference_is_the_policy():
        distributed.log_main(
            f"WARNING: the references are in {DTYPE_NAMES[frozen]} and the policy in "
            f"{DTYPE_NAMES[dtype]}: the divergence does not start at exactly 0, and holds the "
            "rounding of the references as well."
        )
    return frozen


def _refuse_rounding(config: OnlineConfig, dtype: torch.dtype, frozen: torch.dtype) -> None:
    """Refuse 16-bit rounding between equal policies under the Sinkhorn divergence.

    Measured on SmolLM2 (docs/log.md): its penalty is then half of that of a trained policy.
    """
    if config.regularizer != "sinkhorn_divergence":
        return
    name = DTYPE_NAMES[dtype]
    require(
        dtype == torch.float32 or not config.reuse_rollout_logprobs,
        f"--reuse_rollout_logprobs in {name} with the Sinkhorn divergence: sampling rounds another "
        "way than the reference's pass, and the penalty of that is half of a trained policy's. "
        "Remove the flag, or train in fp32.",
    )
    require(
        frozen == dtype or config.reference_is_the_policy(),
        f"--frozen_dtype {DTYPE_NAMES[frozen]} and a policy in {name} with the Sinkhorn "
        "divergence: the penalty of their rounding is half of a trained policy's. Remove "
        "--frozen_dtype.",
    )


def critic_start(config: OnlineConfig, tokenizer: Any) -> tuple[str | None, bool]:
    """The model that the critic starts from, and whether it has no value head of its own yet.

    That is the reward model, where it has the policy's vocabulary. The critic reads the policy's
    tokens: beside a reward model of another vocabulary, which scores texts, it starts from the
    policy, with a value head of zeros.
    """
    from transformers import AutoTokenizer

    path = config.critic_model_name_or_path
    if path is None or not config.trains_critic or not config.uses_reward_model:
        return path, not config.uses_reward_model
    other = load_pretrained(AutoTokenizer, path, config.flag_name("critic_model_name_or_path"))
    if config.add_eot_token:
        other.add_special_tokens({"additional_special_tokens": [tokenizer.eos_token]})
    if other.get_vocab() == tokenizer.get_vocab():
        return path, False
    distributed.log_main(
        f"The reward model {path} has another vocabulary than the policy: the critic starts from "
        "the policy, with a value head of zeros."
    )
    return config.actor_model_name_or_path, True


def _classifier(
    config: OnlineConfig,
    path: str | None,
    tokenizer: Any,
    dtype: torch.dtype,
    dropout: float | None,
    new_head: bool = False,
) -> Any:
    assert path is not None
    # One seed, so that rows of a new token are the same in all copies.
    torch.manual_seed(config.seed)
    flag = config.flag_name("critic_model_name_or_path")
    return load_reward_model(
        path, tokenizer, dtype, flag, dropout, new_head, config.add_eot_token, new_head
    )


def _checkpointing(model: Any, enabled: bool) -> None:
    if enabled:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _with_lora(model: Any, role: str, config: OnlineConfig, tokenizer: Any) -> Any:
    dim = getattr(config, f"{role}_lora_dim")
    if dim == 0:
        return model
    name = getattr(config, f"{role}_lora_module_name")
    flag = config.flag_name(f"{role}_lora_module_name")
    new_rows = ends_of(tokenizer).new_rows()
    return add_lora(model, dim, name, config.only_optimize_lora, flag, new_rows)
