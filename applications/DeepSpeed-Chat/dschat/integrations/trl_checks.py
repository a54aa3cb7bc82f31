"""Settings of TRL's GRPO that cannot be combined with a penalty in the advantages."""

from __future__ import annotations

import math
from typing import Any

from dschat.regularization import MixtureReference, MultiReference, PolicyRegularizer
from dschat.regularization.base import NoPenalty
from dschat.regularization.sampled_kl import SampledKL
from dschat.settings.command_line import require


def check_arguments(args: Any, coefficient: float) -> None:
    """Refuse settings that would count the penalty twice, or in which it would be wrong.

    Args:
        args: a `GRPOConfig`; None stands for TRL's defaults, which all work.

    Raises:
        UserError: names the setting, with the reason.
    """
    require(
        math.isfinite(coefficient) and coefficient >= 0,
        f"coefficient={coefficient}: expected a number of at least 0.",
    )
    if args is None:
        return
    for name, works, reason in _RULES:
        value = getattr(args, name, None)
        require(works(value), f"{name}={value!r} does not work with a regularizer: {reason}")
    plugin = getattr(args, "deepspeed_plugin", None)
    require(
        getattr(plugin, "zero_stage", 0) != 3,
        "DeepSpeed ZeRO 3 does not work with a regularizer: the models are asked for hidden states "
        "outside of DeepSpeed's engine, where their weights are in parts. Use ZeRO 1 or 2.",
    )
    require(
        not getattr(args, "fsdp", None),
        f"fsdp={getattr(args, 'fsdp', None)!r} does not work with a regularizer: the models are "
        "asked for hidden states outside of the wrapped model, where their weights are in parts. "
        "Use DDP, or DeepSpeed ZeRO 1 or 2.",
    )


_TWICE = "with it the penalty would be counted twice. Set beta=0.0 (TRL's default) and use "
_RULES: list[tuple[str, Any, str]] = [
    (
        "beta",
        lambda value: not value,
        f"TRL adds beta times its own estimate of the KL to the loss; {_TWICE}coefficient.",
    ),
    (
        "sync_ref_model",
        lambda value: not value,
        "it moves the reference of TRL's own KL, which is not loaded. Leave it out.",
    ),
    (
        "importance_sampling_level",
        lambda value: value in (None, "token"),
        "with one ratio per response a token's penalty-to-go would count for all tokens of its "
        "response, also for those after it. Set importance_sampling_level='token'.",
    ),
    (
        "off_policy_mask_threshold",
        lambda value: value is None,
        "it keeps or drops whole responses by the sign of their one advantage, and here each token "
        "has its own. Leave it out.",
    ),
    (
        "multi_objective_aggregation",
        lambda value: value in (None, "sum_then_normalize"),
        "it divides each reward by its own spread, so that there is no unit of the reward left for "
        "the coefficient. Set multi_objective_aggregation='sum_then_normalize'.",
    ),
    (
        "cast_lm_head_to_fp32",
        lambda value: not value,
        "it would cast the policy's output layer and not the references', which would then differ "
        "from the start. Leave it out; log-probabilities are float32 in any case.",
    ),
]


def check_regularizer(regularizer: PolicyRegularizer) -> None:
    """Refuse a regularizer that is not a penalty per token.

    Raises:
        UserError: there is nothing to penalise, or the penalty is a term of the loss.
    """
    inner = getattr(regularizer, "regularizer", regularizer)
    require(
        not isinstance(inner, NoPenalty),
        "regularizer='none': use TRL's own GRPOTrainer where nothing is to be penalised.",
    )
    require(
        not (isinstance(inner, SampledKL) and inner.term is None),
        "kl_placement='loss': a regularizer with a term of its own in the loss does not work in "
        "TRL's trainer, whose loss is TRL's. Use kl_placement='reward', or TRL's own beta.",
    )


def check_references(regularizer: PolicyRegularizer, references: int) -> None:
    """Refuse numbers of references and weights that do not fit.

    Raises:
        UserError: says how to give the weights.
    """
    if isinstance(regularizer, MultiReference | MixtureReference):
        weights = len(regularizer.weights)
        require(
            weights == references,
            f"{type(regularizer).__name__} has {weights} weights for {references} references: "
            "expected one weight for each.",
        )
        return
    require(
        references == 1 or regularizer.needs_all_references,
        f"references: given {references} with a regularizer from one reference. Expected "
        "regularizer=MultiReference(regularizer, weights=[...]), with one weight for each.",
    )
