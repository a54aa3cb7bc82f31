"""Advantages without a critic: a response is compared with the others to its prompt.

A group may lie on several ranks and in several micro-batches, so scores and penalties of the whole
iteration are put together first, each at its place; every rank then computes the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dschat.algorithms import group_centred, group_std, penalty_to_go, reward_scale
from dschat.algorithms.advantages import STD_FLOOR
from dschat.rollout.experience import Experience
from dschat.runtime import distributed
from dschat.scoring.targets import clipped_scores, penalty_rewards


def with_group_targets(
    experiences: Sequence[Experience],
    responses: int,
    group_size: int,
    coefficient: float,
    penalty_clip: float | None,
    score_clip: float,
    leave_one_out: bool = False,
    scale: bool = False,
) -> list[Experience]:
    """The experiences of one iteration with the advantages of GRPO or RLOO.

    The advantage of a token is the response's centred score plus the centred sum of the penalty
    rewards from that token on: a penalty is paid where it can still be avoided. The baseline of
    both is the group's mean (RLOO: the mean of the group's others), of the penalties at the same
    position, where responses that have ended count with 0. Both are divided by the same standard
    deviation (see `reward_scale` for small ones), so that the coefficient keeps its meaning.

    Args:
        experiences: of this rank; `rollout.places` says where each response belongs.
        responses: of all ranks in this iteration. group_size: neighbouring places of one prompt.
        coefficient: of the penalty. penalty_clip: the regulariser's `reward_clip`.
        score_clip: bound of the scores; 0 for none.
        leave_one_out: RLOO's baseline.
        scale: divide by the standard deviation of the group's scores.

    Returns:
        The experiences with `advantages` [B, T], and `sample_weights` divided in the same way, as
        is the samples' control variate, which is taken off the advantages.
    """
    device = experiences[0].scores.device
    to_go = [
        penalty_to_go(
            penalty_rewards(e, coefficient, penalty_clip).double(), e.rollout.response_mask
        )
        for e in experiences
    ]
    length = torch.tensor(max(t.shape[1] for t in to_go), device=device)
    width = int(distributed.all_reduce(length, "max"))
    rewards_to_go = torch.zeros(responses, width, dtype=torch.float64, device=device)
    for e, t in zip(experiences, to_go, strict=True):
        rewards_to_go[e.rollout.places, : t.shape[1]] = t
    # Every place is filled by one rank and 0 on all others.
    distributed.all_reduce(rewards_to_go)
    scores = _scores(experiences, responses, score_clip)
    groups = torch.arange(responses, device=device) // group_size
    advantages = group_centred(scores, groups, leave_one_out).unsqueeze(1) + group_centred(
        rewards_to_go, groups, leave_one_out
    )
    divisor = reward_scale(group_std(scores, groups)) if scale else torch.ones_like(scores)
    advantages = advantages / divisor.unsqueeze(1)
    return [_take(e, advantages, divisor) for e in experiences]


def floored_groups(
    experiences: Sequence[Experience], responses: int, group_size: int, score_clip: float
) -> float:
    """Share of an iteration's groups whose scores differ, but by a std below `STD_FLOOR`.

    All ranks call it; the arguments are those of `with_group_targets`.
    """
    scores = _scores(experiences, responses, score_clip)
    std = group_std(scores, torch.arange(responses, device=scores.device) // group_size)
    return float(((std > 0) & (std < STD_FLOOR)).double().mean())


def _scores(experiences: Sequence[Experience], responses: int, score_clip: float) -> Tensor:
    """[responses] float64 scores of all ranks, each at its place."""
    scores = torch.zeros(responses, dtype=torch.float64, device=experiences[0].scores.device)
    for e in experiences:
        scores[e.rollout.places] = clipped_scores(e, score_clip).double()
    return distributed.all_reduce(scores)


def _take(experience: Experience, advantages: Tensor, divisor: Tensor) -> Experience:
    """Rows of this micro-batch from those of the iteration."""
    rollout, mask = experience.rollout, experience.rollout.response_mask
    mine = advantages[rollout.places, : mask.shape[1]].float()
    if experience.sample_control is not None:
        mine = mine - experience.sample_control / divisor[rollout.places].float().unsqueeze(1)
        experience = replace(experience, sample_control=None)
    result = experience.with_advantages(torch.where(mask, mine, torch.zeros_like(mine)))
    if result.samples is None or result.sample_weights is None:
        return result
    divided = result.sample_weights / divisor[result.samples.places].float()
    return replace(result, sample_weights=divided)
