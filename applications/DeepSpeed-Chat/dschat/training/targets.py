"""From scores and penalties to advantages and returns, per macro action or token."""

from __future__ import annotations

import torch
from torch import Tensor

from dschat.algorithms import gae
from dschat.rollout.experience import Experience


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
    rewards = -coefficient * experience.token_penalty
    if penalty_clip is not None:
        rewards = rewards.clamp(-penalty_clip, penalty_clip)
    rewards = torch.where(mask, rewards, torch.zeros_like(rewards))
    last = mask.sum(dim=1, keepdim=True) - 1
    scores = experience.scores
    if score_clip > 0:
        scores = scores.clamp(-score_clip, score_clip)
    terminal = scores.unsqueeze(1)
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
    return experience.with_advantages(*gae(rewards, experience.values, mask, gamma, lam))
