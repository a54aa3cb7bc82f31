"""The advantages that a run can name: functions of an iteration's responses and the settings.

The registry (`ADVANTAGES` in `dschat.settings.registry`) maps a name to such a function, the
user's own included: f(responses: Responses, settings) -> Advantages.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dschat.algorithms.advantages import (
    STD_FLOOR,
    discounted_to_go,
    group_centred,
    group_std,
    masked_moments,
    penalty_to_go,
    reward_scale,
)
from dschat.algorithms.macro_actions import macro_gae


@dataclass(frozen=True)
class Responses:
    """R responses of all ranks in one iteration, T columns, in the order of their prompts.

    Attributes:
        scores: [R] float32 rewards, clipped by `--clip_reward_value`.
        penalties: [R, T] float32, -coefficient * phi_t, clipped where the regularizer asks for it;
            0 where masked.
        mask: [R, T] bool, True on response tokens.
        groups: [R] int64; responses to one prompt share a number.
        values: [R, T] float32 of the critic; None without one.
        macro_actions: [R, T] int64, the macro action of each token (plain PPO: 0, 1, 2, ...); None
            without a critic.
    """

    scores: Tensor
    penalties: Tensor
    mask: Tensor
    groups: Tensor
    values: Tensor | None = None
    macro_actions: Tensor | None = None

    def token_rewards(self) -> Tensor:
        """[R, T] the penalty at every token, plus the score at the last."""
        last = self.mask.sum(dim=1, keepdim=True) - 1
        columns = torch.arange(self.mask.shape[1], device=self.mask.device).unsqueeze(0)
        scores = self.scores.unsqueeze(1)
        return self.penalties + torch.where(columns == last, scores, torch.zeros_like(scores))


@dataclass(frozen=True)
class Advantages:
    """What an estimator returns.

    Attributes:
        advantages: [R, T] of any float dtype; what is masked is not read.
        returns: [R, T] the critic's targets; needed where there is a critic.
        scale: [R] what the advantages were divided by; None: 1. Weights of the references' samples
            are divided by it as well.
        metrics: figures for the log, the same on all ranks as `Responses` is.
    """

    advantages: Tensor
    returns: Tensor | None = None
    scale: Tensor | None = None
    metrics: dict[str, float] = field(default_factory=dict)


def gae_advantage(responses: Responses, settings: Any) -> Advantages:
    """PPO's: GAE over (macro) actions, see `macro_gae`.

    Args:
        settings: gamma, lam and value_function are read.

    Raises:
        ValueError: there is no critic.
    """
    if responses.values is None or responses.macro_actions is None:
        raise ValueError("gae needs a critic's values: use --algorithm ppo")
    advantages, returns = macro_gae(
        responses.token_rewards(),
        responses.values,
        responses.mask,
        responses.macro_actions,
        settings.gamma,
        settings.lam,
        settings.value_function,
    )
    return Advantages(advantages, returns)


def grpo_advantage(responses: Responses, settings: Any) -> Advantages:
    """GRPO's (Shao et al., 2024): scores and penalties minus their group's mean.

    The advantage of a token is the response's centred score plus the centred sum of the penalties
    from that token on: a penalty is paid where it can still be avoided. The baseline of the
    penalties is the group's mean at the same position, where responses that have ended count with
    0.

    Args:
        settings: scale_rewards: divide both by the standard deviation of the group's scores (see
            `reward_scale` for small ones), so that the coefficient keeps its meaning.
    """
    centred = _centred(responses)
    if not settings.scale_rewards:
        return Advantages(centred)
    std = group_std(responses.scores.double(), responses.groups)
    scale = reward_scale(std)
    # The share of groups whose scores differ, but too little to be scaled by their own std.
    floored = float(((std > 0) & (std < STD_FLOOR)).double().mean())
    metrics = {"std_floored": floored}
    return Advantages(centred / scale.unsqueeze(1), scale=scale, metrics=metrics)


def rloo_advantage(responses: Responses, settings: Any) -> Advantages:
    """REINFORCE leave-one-out (Ahmadian et al., 2024): minus the mean of the group's others.

    Otherwise as `grpo_advantage` without scaling.

    Raises:
        ValueError: a group of one has no others to compare with.
    """
    return Advantages(_centred(responses, leave_one_out=True))


def whitened(found: Advantages, mask: Tensor) -> Advantages:
    """Advantages minus their mean, over their standard deviation, over all active tokens.

    Both moments are of the sample itself: this is no policy gradient. The mean is a baseline that
    holds each token's own advantage and favours no length over another only where advantages do
    not depend on it; the standard deviation is another number in every iteration.

    Args:
        mask: [R, T] bool of the `Responses`.

    Returns:
        `found` with whitened advantages and the scale that goes with them.
    """
    mean, std = masked_moments(found.advantages, mask)
    scale = torch.ones(len(mask), device=mask.device) if found.scale is None else found.scale
    advantages = (found.advantages.double() - mean) / std
    return replace(found, advantages=advantages, scale=scale.double() * std)


def reinforce_plus_plus(responses: Responses, settings: Any) -> Advantages:
    """REINFORCE++ (Hu, 2025, arXiv 2501.03262): discounted returns of rewards and penalties.

    The return of a token is what comes after it, penalties included, so that with gamma 1 the
    penalty is its own exact return-to-go; it is whitened over the tokens of all ranks, see
    `whitened`.

    Args:
        settings: gamma is read.
    """
    returns = discounted_to_go(responses.token_rewards().double(), settings.gamma)
    return whitened(Advantages(returns), responses.mask)


def reinforce_plus_plus_baseline(responses: Responses, settings: Any) -> Advantages:
    """REINFORCE++-baseline (Hu, 2025): `grpo_advantage` without scaling, whitened as a whole."""
    return whitened(Advantages(_centred(responses)), responses.mask)


def _centred(responses: Responses, leave_one_out: bool = False) -> Tensor:
    """[R, T] float64 scores and penalties-to-go minus the baselines of their group."""
    scores, groups = responses.scores.double(), responses.groups
    to_go = penalty_to_go(responses.penalties.double(), responses.mask)
    return group_centred(scores, groups, leave_one_out).unsqueeze(1) + group_centred(
        to_go, groups, leave_one_out
    )
