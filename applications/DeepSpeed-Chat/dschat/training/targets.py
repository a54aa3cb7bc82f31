"""From scores and penalties to advantages and returns with a critic."""

from __future__ import annotations

import torch
from torch import Tensor

from dschat.algorithms import gae
from dschat.rollout.experience import Experience


def penalty_rewards(
    experience: Experience, coefficient: float, penalty_clip: float | None
) -> Tensor:
    """[B, T] rewards for staying near: -coefficient * phi_t, clipped where asked, 0 if masked."""
    rewards = -coefficient * experience.token_penalty
    if penalty_clip is not None:
        rewards = rewards.clamp(-penalty_clip, penalty_clip)
    return torch.where(experience.rollout.response_mask, rewards, torch.zeros_like(rewards))


def clipped_scores(experience: Experience, score_clip: float) -> Tensor:
    """[B] scores within plus or minus `score_clip`; 0 for no clipping."""
    scores = experience.scores
    return scores.clamp(-score_clip, score_clip) if score_clip > 0 else scores


def token_rewards(
    experience: Experience, coefficient: float, penalty_clip: float | None, score_clip: float
) -> Tensor:
    """[B, T] rewards: -coefficient * phi_t at every token, plus the score at the last.

    Args:
        coefficient: of the penalty (`--kl_ctl`).
        penalty_clip: the regulariser's `reward_clip`; the published value estimators clip.
        score_clip: bound of the score (published: 2.5); 0 for none.
    """
    mask = experience.rollout.response_mask
    rewards = penalty_rewards(experience, coefficient, penalty_clip)
    last = mask.sum(dim=1, keepdim=True) - 1
    terminal = clipped_scores(experience, score_clip).unsqueeze(1)
    columns = torch.arange(mask.shape[1], device=mask.device).unsqueeze(0)
    return rewards + torch.where(columns == last, terminal, torch.zeros_like(terminal))


def with_targets(
    experience: Experience,
    coefficient: float,
    penalty_clip: float | None,
    gamma: float,
    lam: float,
    score_clip: float,
) -> Experience:
    """The experience with GAE's advantages and returns; see `token_rewards`."""
    rewards = token_rewards(experience, coefficient, penalty_clip, score_clip)
    mask = experience.rollout.response_mask
    assert experience.values is not None
    return experience.with_advantages(*gae(rewards, experience.values, mask, gamma, lam))
