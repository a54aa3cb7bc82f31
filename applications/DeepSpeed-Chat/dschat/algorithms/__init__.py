"""Advantages and losses: pure functions of tensors.

Shapes everywhere: B sequences, T response positions; masks [B, T] bool, True on response tokens.
"""

from dschat.algorithms.advantages import (
    gae,
    group_centred,
    group_std,
    penalty_to_go,
    reward_scale,
)
from dschat.algorithms.estimators import Advantages, Responses
from dschat.algorithms.losses import (
    loss_count,
    masked_sum,
    ppo_diagnostics,
    ppo_policy_loss,
    reduce_losses,
    value_loss,
)
from dschat.algorithms.preferences import (
    dpo_margins,
    implicit_rewards,
    mix_sequence_logprobs,
)

__all__ = [
    "Advantages",
    "Responses",
    "dpo_margins",
    "gae",
    "group_centred",
    "group_std",
    "implicit_rewards",
    "loss_count",
    "masked_sum",
    "mix_sequence_logprobs",
    "penalty_to_go",
    "ppo_diagnostics",
    "ppo_policy_loss",
    "reduce_losses",
    "reward_scale",
    "value_loss",
]
