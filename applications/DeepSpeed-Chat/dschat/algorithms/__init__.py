"""Advantages and losses: pure functions of tensors.

Shapes everywhere: B sequences, T response positions; masks [B, T] bool, True on response tokens.
"""

from dschat.algorithms.advantages import (
    gae,
    group_advantages,
    penalty_to_go,
    rloo_advantages,
)
from dschat.algorithms.losses import masked_sum, ppo_diagnostics, ppo_policy_loss, value_loss

__all__ = [
    "gae",
    "group_advantages",
    "masked_sum",
    "penalty_to_go",
    "ppo_diagnostics",
    "ppo_policy_loss",
    "rloo_advantages",
    "value_loss",
]
