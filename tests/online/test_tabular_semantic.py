"""The trainer's expected update with the semantic penalties, in the world of `tabular.py`.

The divergences are written out with dense matrices and differentiated by autograd.
"""

from __future__ import annotations

import pytest
import torch
from dschat.regularization import EnergyDistance, KernelMMD, SmoothedKL
from tabular import objectives_gradient, trainers_gradient, world
from torch import Tensor

POINTS = torch.tensor([[1.0, 1.0], [2.0, 1.0], [-1.4, 3.0]], dtype=torch.float64)
UNITS = POINTS / POINTS.norm(dim=1, keepdim=True)
SMOOTHING = (UNITS @ UNITS.T / 0.4).softmax(1)
CENTRED = UNITS - UNITS.mean(0)
KERNEL = CENTRED @ CENTRED.T / CENTRED.square().sum(1).mean() + 0.2 * torch.eye(3).double()
DISTANCES = torch.cdist(POINTS, POINTS)
COSTS = DISTANCES / (DISTANCES.sum() / 6)


def smoothed(p: Tensor, q: Tensor) -> Tensor:
    p, q = p @ SMOOTHING, q @ SMOOTHING
    return (p * (p / q).log()).sum()


CASES = {
    "smoothed_kl": (SmoothedKL(POINTS, 3, 0.4), smoothed),
    "kernel_mmd": (KernelMMD(POINTS, 0.2), lambda p, q: (p - q) @ KERNEL @ (p - q) / 2),
    "energy_distance": (EnergyDistance(POINTS, 3), lambda p, q: -(p - q) @ COSTS @ (p - q) / 2),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_the_expected_update_is_the_gradient_of_reward_minus_divergence(name: str, seed: int):
    regularizer, divergence = CASES[name]
    policy, reference, rewards = world(seed)
    actual = trainers_gradient(policy, reference, rewards, regularizer)
    expected = objectives_gradient(policy, reference, rewards, divergence)
    torch.testing.assert_close(actual, expected, atol=1e-7, rtol=1e-6)
