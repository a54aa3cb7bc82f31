"""The trainer's own functions in a world small enough to sum over: the gradient is exact.

Vocabulary of 3 tokens, 0 ends a response, at most 3 tokens; the policy is a table of logits, one
row per prefix. All responses are enumerated, the trainer's targets and loss are computed for each,
and the probability-weighted gradient is compared with autograd's of E[R] - beta E[sum_t D_t].
"""

from __future__ import annotations

import pytest
import torch
from dschat.algorithms import masked_sum
from dschat.regularization import FDivergence, KLDivergence, RenyiDivergence, TsallisDivergence
from tabular import DIVERGENCES, objectives_gradient, trainers_gradient, world


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_the_expected_update_is_the_gradient_of_the_regularised_objective(name: str, seed: int):
    policy, reference, rewards = world(seed)
    actual = trainers_gradient(policy, reference, rewards, FDivergence(name, form="gradient"))
    expected = objectives_gradient(policy, reference, rewards, DIVERGENCES[name])
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("order", [0.4, 1.5, 2.5])
@pytest.mark.parametrize("make", [RenyiDivergence, TsallisDivergence])
def test_the_same_for_renyi_and_tsallis(make, order: float) -> None:
    policy, reference, rewards = world(4)

    def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        power_sum = (p**order * q ** (1 - order)).sum()
        return (power_sum.log() if make is RenyiDivergence else power_sum - 1) / (order - 1)

    actual = trainers_gradient(policy, reference, rewards, make(order))
    expected = objectives_gradient(policy, reference, rewards, divergence)
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "exact"])
def test_no_kl_estimator_changes_the_gradient(estimator: str) -> None:
    policy, reference, rewards = world(2)
    actual = trainers_gradient(policy, reference, rewards, KLDivergence(estimator))
    expected = objectives_gradient(policy, reference, rewards, DIVERGENCES["rkl"])
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-8)


def test_the_published_value_form_of_the_forward_kl_is_not_its_gradient() -> None:
    # What the project says about it; were it false, the 'gradient' form would be needless.
    policy, reference, rewards = world(3)
    regularizer = FDivergence("fkl", form="value")
    actual = trainers_gradient(policy, reference, rewards, regularizer)
    expected = objectives_gradient(policy, reference, rewards, DIVERGENCES["fkl"])
    assert (actual - expected).norm() > 0.1 * expected.norm()


def test_masked_sum_is_what_the_loss_averages() -> None:
    mask = torch.tensor([[True, False]])
    assert masked_sum(torch.tensor([[2.0, torch.inf]]), mask) == 2.0
