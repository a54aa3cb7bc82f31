"""GRPO and RLOO with several references, in the world of `test_tabular_world`, by enumeration.

Every pair of responses is a group. The trainer's own functions make advantages, sample weights and
losses; the probability-weighted gradient over all pairs is the expected update. Ascending it must
end at the optima that Aminian et al. (arXiv 2502.01203) derive for whole responses.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dschat.data.prompts import PromptExample
from dschat.regularization import FDivergence, KLDivergence, MixtureReference, MultiReference
from dschat.scoring.sample_term import with_samples
from tabular import LIMIT, PREFIXES, RESPONSES, TOKENS, logprobs_of, rows_of
from tabular_references import COUNT, CPU, TOKENIZER, World, expected_update, experience
from target_fixtures import with_group_targets
from torch import Tensor


def ascend(update: Any, steps: int = 500) -> Tensor:
    """[responses] probabilities of the policy that following the update ends at."""
    policy = torch.zeros(len(PREFIXES), TOKENS, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([policy], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        policy.grad = -update(policy)
        optimiser.step()
        schedule.step()
    return logprobs_of(policy).sum(1).exp().detach()


CASES = [
    ("rkl", "rloo", [0.25, 0.75], 0.5),
    ("rkl", "grpo", [0.2, 0.5, 0.3], 1.0),
    ("fkl", "grpo", [0.25, 0.75], 1.0),
    ("fkl", "rloo", [0.2, 0.5, 0.3], 0.5),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kl_type", "algorithm", "weights", "gamma"), CASES)
def test_the_trainers_update_leads_to_the_papers_optimum(
    kl_type: str, algorithm: str, weights: list[float], gamma: float
) -> None:
    world = World(3, weights)
    regularizer = MultiReference(KLDivergence("exact"), weights)
    found = ascend(
        lambda policy: expected_update(
            policy, world, gamma, regularizer, algorithm, samples=kl_type == "fkl"
        )
    )
    expected = world.optimum(kl_type, gamma)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    # Another strength, or other weights, lead elsewhere: the test can tell.
    for other in (
        world.optimum(kl_type, 1.2 * gamma),
        World(3, [1 / len(weights)] * len(weights)).optimum(kl_type, gamma),
    ):
        assert float((other - expected).abs().max()) > 2e-3


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
@pytest.mark.parametrize("kind", ["rkl", "js", "mixture"])
def test_the_expected_update_is_the_objectives_gradient(algorithm: str, kind: str) -> None:
    """Of E[R] - gamma E[sum_t D_t], by autograd; GRPO's is (1 - 1/G) of it, all terms alike."""
    weights, gamma = [0.3, 0.7], 0.8
    world = World(5, weights)
    inner = (
        KLDivergence("exact")
        if kind == "rkl"
        else FDivergence("js" if kind == "js" else "fkl", form="gradient")
    )
    make: Any = MixtureReference if kind == "mixture" else MultiReference
    generator = torch.Generator().manual_seed(6)
    policy = torch.randn(len(PREFIXES), TOKENS, generator=generator).double().requires_grad_()
    update = expected_update(policy, world, gamma, make(inner, weights), algorithm, False)

    def divergence(p: Tensor, q: Tensor) -> Tensor:
        if kind == "rkl":
            return (p * (p / q).log()).sum()
        if kind == "js":
            return (p * (2 * p / (p + q)).log() + q * (2 * q / (p + q)).log()).sum()
        return (q * (q / p).log()).sum()

    pi = policy.softmax(1)
    logprobs = logprobs_of(policy)
    objective = (logprobs.sum(1).exp() * world.rewards).sum()
    w = torch.tensor(weights, dtype=torch.float64)
    for i, response in enumerate(RESPONSES):
        for t, row in enumerate(rows_of(response)):
            rho = torch.stack([r[row].softmax(0) for r in world.references])
            if kind == "mixture":
                earlier = torch.stack([logprobs_of(r)[i, :t].sum() for r in world.references])
                posterior = (w.log() + earlier).softmax(0)
                value = divergence(pi[row], (posterior.unsqueeze(1) * rho).sum(0))
            else:
                value = sum(w[k] * divergence(pi[row], rho[k]) for k in range(2))
            objective = objective - gamma * logprobs[i].sum().exp() * value
    (expected,) = torch.autograd.grad(objective, policy)
    # Two responses, each a sample of the gradient; GRPO's baseline contains the response itself.
    factor = 2.0 if algorithm == "rloo" else 2 * (1 - 1 / 2)
    torch.testing.assert_close(update, factor * expected, atol=1e-6, rtol=1e-5)


def test_scaling_divides_advantages_and_sample_weights_by_one_standard_deviation() -> None:
    world = World(1, [0.5, 0.5])
    logprobs = logprobs_of(world.references[0])
    token = torch.randn(COUNT, LIMIT, generator=torch.Generator().manual_seed(0)).double()
    order = torch.tensor([0, 3, 5, 5])  # the second group's rewards are equal
    config: Any = SimpleNamespace(
        group_size=lambda: 2,
        estimator="grpo",
        loss_normalization="token",
        sample_coefficient=0.7,
    )
    prompt = PromptExample([1], "", {}, ([1, 0],))
    batch = experience(order, logprobs, token, world.rewards)
    batches = with_samples([batch], [prompt] * 4, config, TOKENIZER, CPU)
    ((plain,), _), ((scaled,), _) = (
        with_group_targets(batches, 4, 0.3, scale=scale) for scale in (False, True)
    )
    std = float(world.rewards[order[:2]].std(correction=0))
    ratio = torch.tensor([std, std, 1.0, 1.0]).unsqueeze(1)
    torch.testing.assert_close(scaled.advantages * ratio, plain.advantages)
    assert plain.sample_weights.tolist() == pytest.approx([0.7, 0.7])  # 0.7 x 2 / 1 x (1 - 1/2)
    assert scaled.sample_weights.tolist() == pytest.approx([0.7 / std, 0.7])


def test_a_tiny_spread_scales_rewards_penalties_and_samples_by_the_same_floor() -> None:
    world = World(1, [0.5, 0.5])
    rewards = world.rewards.clone()
    rewards[[0, 3]] = torch.tensor([1.0, 1.001], dtype=rewards.dtype)
    logprobs = logprobs_of(world.references[0])
    token = torch.randn(COUNT, LIMIT, generator=torch.Generator().manual_seed(0)).double()
    config: Any = SimpleNamespace(
        group_size=lambda: 2,
        estimator="grpo",
        loss_normalization="token",
        sample_coefficient=0.7,
    )
    batch = experience(torch.tensor([0, 3, 0, 5]), logprobs, token, rewards)
    prompt = PromptExample([1], "", {}, ([1, 0],))
    batches = with_samples([batch], [prompt] * 4, config, TOKENIZER, CPU)
    ((plain,), _), ((scaled,), metrics) = (
        with_group_targets(batches, 4, 0.3, scale=scale) for scale in (False, True)
    )
    # A std of 0.0005, a twentieth of the floor of 0.01: nineteen twentieths of the way back to 1.
    divisor = 0.01 / 20 + 19 / 20
    torch.testing.assert_close(
        scaled.advantages[:2] * divisor, plain.advantages[:2], rtol=1e-5, atol=0
    )
    assert scaled.sample_weights[0] == pytest.approx(0.7 / divisor)
    assert metrics == {"std_floored": 0.5}
