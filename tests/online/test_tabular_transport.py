"""The trainer's expected gradient with the Sinkhorn divergence ascends to the numeric optimum.

The optimum of E[R] - beta E[sum_t S(pi(.|s_t), rho(.|s_t))] is found by scipy from the value of S
alone, computed from transport plans by the plain iteration and differentiated by autograd.
"""

from __future__ import annotations

import pytest
import torch
from dschat.algorithms import ppo_policy_loss
from dschat.regularization import SinkhornDivergence
from dschat.rollout.experience import Experience, Rollout
from scipy.optimize import minimize
from tabular import LIMIT, RESPONSES, logprobs_of, rows_of, world
from target_fixtures import responses_of, with_gae
from torch import Tensor

BETA, EPSILON = 1.5, 0.5
# None at the origin: rows of zeros count as padding of the vocabulary.
POINTS = torch.tensor([[1.0, 1.0], [2.0, 1.0], [1.4, 3.0]], dtype=torch.float64)
COSTS = torch.cdist(POINTS, POINTS) / (torch.cdist(POINTS, POINTS).sum() / 6)


def plan_value(p: Tensor, q: Tensor) -> Tensor:
    """min <P, C> + epsilon KL(P || p x q) [B] of rows of distributions [B, V]."""
    gibbs = torch.exp(-COSTS / EPSILON)
    u, v = torch.ones_like(p), torch.ones_like(q)
    for _ in range(60):
        u = p / (v @ gibbs)
        v = q / (u @ gibbs)
    plan = u.unsqueeze(2) * gibbs * v.unsqueeze(1)
    independent = p.unsqueeze(2) * q.unsqueeze(1)
    return (plan * (COSTS + EPSILON * (plan / independent).log())).sum((1, 2))


def objective(policy: Tensor, reference: Tensor, rewards: Tensor) -> Tensor:
    """E[R] - beta E[sum_t S] over all responses."""
    pi, rho = policy.softmax(1), reference.softmax(1)
    divergence = plan_value(pi, rho) - (plan_value(pi, pi) + plan_value(rho, rho)) / 2
    penalties = torch.stack([divergence[rows_of(response)].sum() for response in RESPONSES])
    return (logprobs_of(policy).sum(1).exp() * (rewards - BETA * penalties)).sum()


def trainers_gradient(policy: Tensor, reference: Tensor, rewards: Tensor) -> Tensor:
    """Expectation over responses of minus the gradient of the trainer's loss."""
    regularizer = SinkhornDivergence(POINTS, 3, EPSILON, max_iter=1000, tol=1e-10)
    mask = torch.tensor([[t < len(r) for t in range(LIMIT)] for r in RESPONSES])
    rows = torch.tensor([row for response in RESPONSES for row in rows_of(response)])
    actions = torch.tensor([token for response in RESPONSES for token in response])
    token = torch.zeros(mask.shape, dtype=torch.float64)
    token[mask] = regularizer(policy[rows].detach(), reference[rows], actions).token
    logprobs = logprobs_of(policy)
    nothing = torch.zeros_like(token)
    ids = torch.zeros(mask.shape, dtype=torch.long)
    flags = torch.zeros(len(RESPONSES), dtype=torch.bool)
    rollout = Rollout(ids, ids, mask, flags, flags, [], [], [], torch.arange(len(ids)))
    made = Experience(rollout, logprobs.detach(), nothing, nothing, token, nothing, rewards)
    experience = with_gae(responses_of(made, BETA, regularizer.reward_clip), made)
    # At a ratio of 1 the loss is linear in the advantages: the weights give the expectation.
    weights = logprobs.detach().sum(1, keepdim=True).exp()
    loss = ppo_policy_loss(
        logprobs,
        experience.logprobs,
        weights * experience.advantages,
        mask,
        clip=0.2,
        count=1.0,
    )
    return -torch.autograd.grad(loss, policy)[0]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_expected_update_is_the_gradient_of_reward_minus_transport(seed: int) -> None:
    policy, reference, rewards = world(seed)
    expected = torch.autograd.grad(objective(policy, reference, rewards), policy)[0]
    actual = trainers_gradient(policy, reference, rewards)
    torch.testing.assert_close(actual, expected, atol=1e-7, rtol=1e-6)


def test_ascent_reaches_the_numeric_optimum() -> None:
    _, reference, rewards = world(2)
    shape = reference.shape

    def loss(flat):
        policy = torch.from_numpy(flat).view(shape).requires_grad_()
        value = -objective(policy, reference, rewards)
        return value.item(), torch.autograd.grad(value, policy)[0].flatten().numpy()

    best = minimize(loss, reference.flatten().numpy(), jac=True, method="BFGS")
    policy = reference.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([policy], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        policy.grad = -trainers_gradient(policy, reference, rewards)
        return -objective(policy.detach(), reference, rewards)

    optimizer.step(closure)
    reached = float(objective(policy.detach(), reference, rewards))
    assert reached > float(objective(reference, reference, rewards)) + 0.01
    assert reached == pytest.approx(-best.fun, abs=1e-6)
    numeric = torch.from_numpy(best.x).view(shape)
    weights = logprobs_of(numeric).sum(1).exp()
    torch.testing.assert_close(
        logprobs_of(policy.detach()).sum(1).exp(), weights, atol=2e-3, rtol=0
    )
