"""GAE against its definition, group baselines against numpy, penalties against a loop."""

import numpy as np
import pytest
import torch
from dschat.algorithms import (
    gae,
    group_std,
    penalty_to_go,
    reward_scale,
)
from dschat.algorithms.advantages import STD_FLOOR
from tensor_strategies import by_scores

LENGTHS = [5, 1, 3, 0]


def random_batch(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(len(LENGTHS), 5, generator=generator, dtype=torch.float64)
    values = torch.randn(len(LENGTHS), 5, generator=generator, dtype=torch.float64)
    mask = torch.arange(5).unsqueeze(0) < torch.tensor(LENGTHS).unsqueeze(1)
    return rewards, values, mask


def test_gae_with_the_true_values_has_no_bias() -> None:
    # Undiscounted and with V = reward to go, every TD error is 0.
    rewards, _, mask = random_batch(2)
    values = penalty_to_go(rewards, mask)
    advantages, _ = gae(rewards, values, mask, 1.0, 0.95)
    assert advantages.abs().max() < 1e-12


def test_gae_refuses_shapes_that_differ() -> None:
    rewards, values, mask = random_batch(3)
    with pytest.raises(ValueError, match="one shape"):
        gae(rewards[:, :3], values, mask, 1.0, 0.95)


def test_group_advantages_are_z_scores_within_groups() -> None:
    rewards = torch.tensor([1.0, 5.0, 2.0, 2.0, 4.0, 2.0], dtype=torch.float64)
    groups = torch.tensor([7, 3, 7, 3, 7, 9])
    scaled, centred = by_scores(rewards, groups, "scaled"), by_scores(rewards, groups)
    for group in (7, 3, 9):
        member = (groups == group).numpy()
        mine = rewards.numpy()[member]
        expected = mine - mine.mean()
        np.testing.assert_allclose(centred.numpy()[member], expected, atol=1e-12)
        np.testing.assert_allclose(scaled.numpy()[member], expected / (mine.std() or 1.0))


def test_equal_rewards_give_no_advantage_even_where_their_mean_rounds() -> None:
    rewards = torch.full((7,), 0.1)
    assert by_scores(rewards, torch.zeros(7, dtype=torch.long), "scaled").abs().max() < 1e-6


def test_a_tiny_spread_is_no_reason_to_multiply_by_thousands() -> None:
    rewards = torch.tensor([1, 1, 1, 1.001, 0, 0, 0, 1], dtype=torch.float64)
    std = group_std(rewards, torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]))
    np.testing.assert_allclose(std[[0, 4]], [np.std([1, 1, 1, 1.001]), np.std([0, 0, 0, 1])])
    scale = reward_scale(std)
    assert 0.9 < float(scale[0]) < 1.0  # it was 0.00043, which took the penalties times 2,309
    assert scale[4] == std[4]


def test_the_divisor_is_continuous_and_never_below_its_floor() -> None:
    std = torch.linspace(0, 3 * STD_FLOOR, 30_001, dtype=torch.float64)
    scale = reward_scale(std)
    assert scale[0] == 1.0  # equal rewards are divided by 1
    assert float(scale.min()) == pytest.approx(STD_FLOOR)
    assert float(scale.diff().abs().max()) < 1.1e-4  # a jump would show
    above = std > STD_FLOOR
    assert torch.equal(scale[above], std[above])


def test_rloo_compares_with_the_others() -> None:
    rewards = torch.tensor([1.0, 5.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    groups = torch.tensor([0, 1, 0, 1, 0])
    expected = [1 - (2 + 4) / 2, 5 - 3, 2 - (1 + 4) / 2, 3 - 5, 4 - (1 + 2) / 2]
    np.testing.assert_allclose(by_scores(rewards, groups, "rloo").numpy(), expected)
    with pytest.raises(ValueError, match="at least 2"):
        by_scores(rewards, torch.tensor([0, 1, 0, 1, 2]), "rloo")
