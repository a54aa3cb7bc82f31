"""GRPO and RLOO with several references, in the world of `test_tabular_world`, by enumeration.

Every pair of responses is a group. The trainer's own functions make advantages, sample weights and
losses; the probability-weighted gradient over all pairs is the expected update. Ascending it must
end at the optima that Aminian et al. (arXiv 2502.01203) derive for whole responses.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dschat.algorithms import ppo_policy_loss
from dschat.data.prompts import PromptExample
from dschat.online.losses import sample_loss
from dschat.regularization import FDivergence, KLDivergence, MixtureReference, MultiReference
from dschat.rollout.experience import Experience, Rollout
from dschat.scoring.sample_term import with_samples
from dschat.scoring.scoring import before_each_token
from scipy.optimize import brentq
from target_fixtures import with_group_targets
from test_tabular_world import LIMIT, PREFIXES, RESPONSES, TOKENS, logprobs_of, rows_of
from torch import Tensor

COUNT = len(RESPONSES)
PAIRS = list(itertools.product(range(COUNT), repeat=2))
FIRST_THEN_SECOND = torch.tensor([i for pair in PAIRS for i in pair])
TOKENIZER = SimpleNamespace(eos_token_id=0, pad_token_id=0)
CPU = torch.device("cpu")


class World:
    """References as tables of logits, rewards of both signs.

    Attributes:
        sequences: [K, responses] probability of each response under each reference.
    """

    def __init__(self, seed: int, weights: list[float]) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).double()

        self.weights = weights
        self.references = [draw(len(PREFIXES), TOKENS) for _ in weights]
        self.rewards = draw(COUNT)
        assert self.rewards.min() < 0 < self.rewards.max()
        self.sequences = torch.stack([logprobs_of(r).sum(1).exp() for r in self.references])

    def optimum(self, kl_type: str, gamma: float) -> Tensor:
        """[responses] the closed form of the paper."""
        w = torch.tensor(self.weights, dtype=torch.float64).unsqueeze(1)
        if kl_type == "rkl":
            return ((w * self.sequences.log()).sum(0) + self.rewards / gamma).softmax(0)
        mixture, top = (w * self.sequences).sum(0), float(self.rewards.max())
        z = brentq(
            lambda z: float((gamma * mixture / (z - self.rewards)).sum()) - 1, top + 1e-9, top + 99
        )
        return gamma * mixture / (z - self.rewards)


def experience(order: Tensor, logprobs: Tensor, token: Tensor, rewards: Tensor) -> Experience:
    """Responses in the given order as one micro-batch."""
    lengths = torch.tensor([len(r) for r in RESPONSES])[order]
    mask = torch.arange(LIMIT).unsqueeze(0) < lengths.unsqueeze(1)
    ids = torch.zeros(len(order), LIMIT, dtype=torch.long)
    flags = torch.zeros(len(order), dtype=torch.bool)
    rollout = Rollout(ids, ids, mask, flags, flags, [], [], [], torch.arange(len(order)))
    zero = torch.zeros(mask.shape)
    return Experience(
        rollout, logprobs[order].detach(), zero, None, token[order], zero, rewards[order]
    )


def token_penalties(regularizer: Any, policy: Tensor, references: list[Tensor]) -> Tensor:
    """[responses, LIMIT] phi of every token of every response."""
    token = torch.zeros(COUNT, LIMIT, dtype=torch.float64)
    for i, response in enumerate(RESPONSES):
        rows = rows_of(response)
        options = {}
        if getattr(regularizer, "needs_all_references", False):
            actions = torch.tensor(response)
            mask = torch.ones(1, len(response), dtype=torch.bool)
            each = [r[rows].log_softmax(1)[torch.arange(len(rows)), actions] for r in references]
            options = {"prefix_logprobs": before_each_token(torch.stack(each, 1), mask)}
        logits = [r[rows] for r in references]
        penalty = regularizer(policy[rows].detach(), logits, torch.tensor(response), **options)
        token[i, : len(rows)] = penalty.token
    return token


def expected_update(
    policy: Tensor, world: World, gamma: float, regularizer: Any, algorithm: str, samples: bool
) -> Tensor:
    """Minus the gradient of the trainer's loss, in expectation over pairs and over samples."""
    logprobs = logprobs_of(policy)
    probability = logprobs.sum(1).exp().detach()
    pairs = probability[FIRST_THEN_SECOND].reshape(-1, 2).prod(1).repeat_interleave(2)
    token = torch.zeros(COUNT, LIMIT, dtype=torch.float64)
    if not samples:
        token = token_penalties(regularizer, policy, world.references)
    batch = experience(FIRST_THEN_SECOND, logprobs, token, world.rewards)
    (targets,), _ = with_group_targets([batch], 2 * len(PAIRS), gamma, algorithm == "rloo")
    assert targets.advantages is not None
    # A pair's share of the loss is linear in its advantages: weighting them weights the pair.
    loss = ppo_policy_loss(
        logprobs[FIRST_THEN_SECOND],
        targets.logprobs,
        targets.advantages.double() * pairs.unsqueeze(1),
        targets.rollout.response_mask,
        clip=0.2,
        count=1.0,
    )
    if samples:
        loss = loss + expected_sample_loss(logprobs, world, gamma, algorithm)
    (gradient,) = torch.autograd.grad(loss, policy)
    return -gradient


def expected_sample_loss(logprobs: Tensor, world: World, gamma: float, algorithm: str) -> Tensor:
    """The loss of one sample per prompt, over all samples by their probability."""
    config: Any = SimpleNamespace(
        group_size=lambda: 2,
        algorithm=algorithm,
        loss_normalization="token",
        sample_coefficient=gamma,
    )
    weights = torch.tensor(world.weights, dtype=torch.float64)
    mixture = (weights.unsqueeze(1) * world.sequences).sum(0)
    total = logprobs.new_zeros(())
    nothing = torch.zeros(COUNT, LIMIT, dtype=torch.float64)
    group = experience(torch.tensor([0, 0]), logprobs, nothing, world.rewards)
    for i, response in enumerate(RESPONSES):
        prompt = PromptExample([1], "", {}, (list(response),))
        (e,) = with_samples([group], [prompt] * 2, config, TOKENIZER, CPU)
        assert e.samples is not None
        assert e.samples.actions[0].tolist() == list(response)
        e = replace(e, sample_weights=e.sample_weights.double())
        own = logprobs[i : i + 1, : len(response)]
        total = total + mixture[i] * sample_loss(own, e, 1.0, "token")
    return total


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
        algorithm="grpo",
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
        algorithm="grpo",
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
