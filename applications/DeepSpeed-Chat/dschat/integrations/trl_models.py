"""The policy that TRL trains and its references, as this package's scoring asks them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer
from trl.trainer.utils import create_model_from_path

from dschat.models.loading import check_same_vocabulary
from dschat.models.output_layer import tokens_of
from dschat.models.policy import PolicyModel, check_output_layer
from dschat.models.references import FrozenPolicy, Reference, WithoutAdapters
from dschat.settings.command_line import require

Autocast = Callable[[], AbstractContextManager[Any]]


class HostedPolicy(PolicyModel):
    """A policy whose body runs under the host's autocast, as in the host's own passes.

    What follows the body does not: logits and penalties are computed in the weights' dtype.

    Args:
        model: the causal language model, with or without adapters.
        temperature: of sampling.
        autocast: `accelerator.autocast`.
    """

    def __init__(self, model: Any, temperature: float, autocast: Autocast) -> None:
        super().__init__(model, temperature)
        self.autocast = autocast

    def forward(self, *args: Any, **named: Any) -> Tensor | tuple[Tensor, ...]:
        """See `PolicyModel`."""
        with self.autocast():
            found = super().forward(*args, **named)
        if named.get("hidden_only"):
            assert isinstance(found, Tensor)
            weight: Any = self.output_layer.linear.weight
            return found.to(weight.dtype)
        return found


def has_adapters(model: Any, peft_config: Any = None) -> bool:
    """Whether adapters are trained in the model, or will be."""
    return peft_config is not None or hasattr(model, "peft_config")


def start_of(model: Any) -> Any:
    """What the policy starts from, to stay near: a path stays one, a model is copied.

    Call it before the host changes the model.
    """
    return model if isinstance(model, str) else copy.deepcopy(model)


def load_references(
    references: Sequence[Any], policy: HostedPolicy, tokenizer: Any, device: torch.device, args: Any
) -> list[FrozenPolicy]:
    """Frozen policies from models and paths, which stay on the device.

    A path is loaded in the dtype of the policy, as TRL loads its own reference, and its
    tokenizer has to have the policy's vocabulary. One that is given twice is loaded once.

    Args:
        references: models or paths.
        args: a `GRPOConfig`, for `model_init_kwargs` and `trust_remote_code`.

    Raises:
        UserError: an architecture that is not computed here as it computes itself, or another
            vocabulary than the policy's.
    """
    frozen: dict[Any, FrozenPolicy] = {}
    found = []
    for given in references:
        key = given if isinstance(given, str) else id(given)
        if key not in frozen:
            model = _loaded(given, policy.model, tokenizer, args)
            check_output_layer(model)
            hosted = HostedPolicy(model, policy.temperature, policy.autocast)
            frozen[key] = Reference(hosted, device)
        found.append(frozen[key])
    return found


def _loaded(given: Any, policy: Any, tokenizer: Any, args: Any) -> Any:
    if not isinstance(given, str):
        return given
    options = {
        "trust_remote_code": args.trust_remote_code,
        **(args.model_init_kwargs or {}),
        "device_map": None,
    }
    options |= {"dtype": policy.dtype, "attn_implementation": policy.config._attn_implementation}
    # A reference must not change the random numbers of the run.
    with torch.random.fork_rng():
        model = create_model_from_path(given, **options)
    other = AutoTokenizer.from_pretrained(given, trust_remote_code=False)
    check_same_vocabulary(tokenizer, other, policy.config._name_or_path or "the policy", given)
    return model


def without_adapters(policy: HostedPolicy) -> WithoutAdapters:
    """The policy's base model as its reference.

    Raises:
        UserError: the adapters are learnt prompts, which the model's body does not know of.
    """
    kinds = policy.model.peft_config.values()
    require(
        not any(kind.is_prompt_learning for kind in kinds),
        "peft_config: prompt learning (prompt, prefix and P-tuning) does not work with a "
        "regularizer, because the learnt prompt lies outside of the model's layers. Use LoRA.",
    )
    return WithoutAdapters(policy)


def share_width(policy: HostedPolicy, references: Sequence[FrozenPolicy], tokenizer: Any) -> None:
    """Cut the logits to the width that all models have; models of one tokenizer are padded.

    Raises:
        UserError: a model has fewer tokens than the tokenizer.
    """
    sizes = [policy.output_layer.vocabulary_size, *(r.vocabulary_size for r in references)]
    tokens, width = tokens_of(tokenizer), min(sizes)
    require(
        width >= tokens,
        f"references: a model has {width} tokens and the tokenizer {tokens}. Policy and references "
        "must share a vocabulary.",
    )
    if max(sizes) > width:
        policy.limit_vocabulary(width)
        for reference in references:
            reference.limit_vocabulary(width)
