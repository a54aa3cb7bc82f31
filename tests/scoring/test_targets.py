"""Rewards per token: where the score goes, what is clipped and what is not."""

from __future__ import annotations

import pytest
import torch
from dschat.rollout.experience import Experience, Rollout
from target_fixtures import responses_of, with_gae


def experience(scores: list[float], penalties: list[list[float]], lengths: list[int]) -> Experience:
    penalty = torch.tensor(penalties)
    mask = torch.arange(penalty.shape[1]).unsqueeze(0) < torch.tensor(lengths).unsqueeze(1)
    ids = torch.zeros(mask.shape, dtype=torch.long)
    flags = torch.zeros(len(lengths), dtype=torch.bool)
    zero = torch.zeros(penalty.shape)
    rollout = Rollout(ids, ids, mask, flags, flags, [], [], [], torch.arange(len(ids)))
    return Experience(rollout, zero, zero, zero, penalty, zero, torch.tensor(scores))


def test_the_score_comes_with_the_last_token_and_the_penalty_with_each() -> None:
    e = experience([1.0, -2.0], [[0.1, 0.2, 0.3], [0.4, 9.0, 9.0]], [3, 1])
    rewards = responses_of(e, coefficient=2.0).token_rewards()
    expected = [[-0.2, -0.4, 1.0 - 0.6], [-2.0 - 0.8, 0.0, 0.0]]
    torch.testing.assert_close(rewards, torch.tensor(expected))


@pytest.mark.parametrize(("clip", "expected"), [(2.5, [2.5, -2.5]), (0.0, [7.0, -9.0])])
def test_scores_are_clipped_at_the_given_value_or_not_at_all(clip: float, expected: list[float]):
    e = experience([7.0, -9.0], [[0.0], [0.0]], [1, 1])
    assert responses_of(e, 1.0, None, clip).token_rewards().squeeze(1).tolist() == expected


def test_penalties_are_clipped_after_the_coefficient_where_the_regulariser_says_so() -> None:
    e = experience([0.0], [[100.0, -3.0, 10.0]], [3])
    rewards = responses_of(e, 0.5, penalty_clip=2.5).token_rewards()
    assert rewards.tolist() == [[-2.5, 1.5, -2.5]]


def test_a_dropped_response_has_no_reward_and_no_advantage() -> None:
    e = experience([5.0, 1.0], [[1.0, 1.0], [1.0, 1.0]], [0, 2])
    done = with_gae(responses_of(e, 1.0), e, lam=0.95)
    assert done.advantages is not None
    assert done.returns is not None
    assert (done.advantages[0] == 0).all()
    assert (done.returns[0] == 0).all()
    assert (done.advantages[1] != 0).any()
