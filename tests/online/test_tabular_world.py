"""The trainer's own functions in a world small enough to sum over: the gradient is exact.

Vocabulary of 3 tokens, 0 ends a response, at most 3 tokens; the policy is a table of logits, one
row per prefix. All responses are enumerated, the trainer's targets and loss are computed for each,
and the probability-weighted gradient is compared with autograd's of E[R] - beta E[sum_t D_t].
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from dschat.algorithms import masked_sum, ppo_policy_loss
from dschat.regularization import FDivergence, KLDivergence
from dschat.rollout.experience import Experience, Rollout
from dschat.scoring.targets import MacroActions
from target_fixtures import responses_of, with_gae
from torch import Tensor

TOKENS, LIMIT, BETA = 3, 3, 0.7
PLAIN = MacroActions()
PREFIXES = [p for n in range(LIMIT) for p in itertools.product((1, 2), repeat=n)]
RESPONSES = [
    (*prefix, last)
    for prefix in PREFIXES
    for last in range(TOKENS)
    if last == 0 or len(prefix) == LIMIT - 1
]


def world(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Policy logits, reference logits [prefixes, tokens] and a reward per response."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(PREFIXES), TOKENS)
    policy, reference = (torch.randn(shape, generator=generator).double() for _ in range(2))
    # Well inside the 2.5 at which terminal rewards are clipped.
    rewards = 0.5 * torch.randn(len(RESPONSES), generator=generator).double()
    return policy.requires_grad_(), reference, rewards


def rows_of(response: tuple[int, ...]) -> list[int]:
    return [PREFIXES.index(response[:t]) for t in range(len(response))]


def logprobs_of(logits: Tensor) -> Tensor:
    """[responses, LIMIT] log-probabilities of the tokens, 0 after the end."""
    table = logits.log_softmax(dim=1)
    padded = []
    for response in RESPONSES:
        picked = [table[row, a] for row, a in zip(rows_of(response), response, strict=True)]
        picked += [table.new_zeros(())] * (LIMIT - len(response))
        padded.append(torch.stack(picked))
    return torch.stack(padded)


def experience_of_all(
    policy: Tensor, reference: Tensor, rewards: Tensor, regularizer: Any, critic: Tensor
) -> Experience:
    """Every response once, as the trainer scores it; `critic` [prefixes] values states."""
    mask = torch.tensor([[t < len(r) for t in range(LIMIT)] for r in RESPONSES])
    token = torch.zeros(mask.shape, dtype=torch.float64)
    for i, response in enumerate(RESPONSES):
        rows = rows_of(response)
        penalty = regularizer(policy[rows].detach(), reference[rows], torch.tensor(response))
        token[i, : len(rows)] = penalty.token
    values = torch.zeros_like(token)
    for i, response in enumerate(RESPONSES):
        values[i, : len(response)] = critic[rows_of(response)]
    logprobs, nothing = logprobs_of(policy).detach(), torch.zeros_like(token)
    reference_logprobs = logprobs_of(reference)
    ids = torch.zeros(mask.shape, dtype=torch.long)
    flags = torch.zeros(len(RESPONSES), dtype=torch.bool)
    # Alternatives at one place: randomized macro actions depend on it.
    places = torch.zeros(len(ids), dtype=torch.long)
    rollout = Rollout(ids, ids, mask, flags, flags, [], [], [], places)
    return Experience(rollout, logprobs, reference_logprobs, values, token, nothing, rewards)


def trainers_gradient(
    policy: Tensor,
    reference: Tensor,
    rewards: Tensor,
    regularizer: Any,
    critic: Tensor | None = None,
    macro: MacroActions = PLAIN,
    value_function: str = "equal",
):
    """Expectation over responses of minus the gradient of the trainer's loss."""
    critic = torch.zeros(len(PREFIXES), dtype=torch.float64) if critic is None else critic
    made = experience_of_all(policy, reference, rewards, regularizer, critic)
    responses = responses_of(made, BETA, regularizer.reward_clip, macro=macro)
    experience = with_gae(responses, made, value_function=value_function)
    logprobs, mask = logprobs_of(policy), experience.rollout.response_mask
    total = torch.zeros_like(policy)
    for i in range(len(RESPONSES)):
        probability = logprobs[i].sum().exp().detach()
        loss = ppo_policy_loss(
            logprobs[i : i + 1],
            experience.logprobs[i : i + 1],
            experience.advantages[i : i + 1],
            mask[i : i + 1],
            clip=0.2,
            count=1.0,
        )
        (gradient,) = torch.autograd.grad(loss, policy, retain_graph=True)
        total -= probability * gradient
    return total


def objectives_gradient(policy: Tensor, reference: Tensor, rewards: Tensor, divergence: Any):
    """Autograd's gradient of E[R] - beta E[sum_t D(pi(.|s_t), rho(.|s_t))], written out."""
    logprobs = logprobs_of(policy)
    pi, rho = policy.softmax(1), reference.softmax(1)
    per_prefix = torch.stack([divergence(p, q) for p, q in zip(pi, rho, strict=True)])
    objective = policy.new_zeros(())
    for i, response in enumerate(RESPONSES):
        penalty = per_prefix[rows_of(response)].sum()
        objective = objective + logprobs[i].sum().exp() * (rewards[i] - BETA * penalty)
    return torch.autograd.grad(objective, policy)[0]


def true_values(policy: Tensor, reference: Tensor, rewards: Tensor, regularizer: Any) -> Tensor:
    """[prefixes] expected sum of the rewards from each state on."""
    nothing = torch.zeros(len(PREFIXES), dtype=torch.float64)
    experience = experience_of_all(policy, reference, rewards, regularizer, nothing)
    to_go = responses_of(experience, BETA, regularizer.reward_clip).token_rewards()
    to_go = to_go.flip(1).cumsum(1).flip(1)
    sums, weights = torch.zeros_like(nothing), torch.zeros_like(nothing)
    for i, response in enumerate(RESPONSES):
        probability = float(experience.logprobs[i].sum().exp())
        for t, row in enumerate(rows_of(response)):
            sums[row] += probability * to_go[i, t]
            weights[row] += probability
    return sums / weights


DIVERGENCES = {
    "rkl": lambda p, q: (p * (p / q).log()).sum(),
    "fkl": lambda p, q: (q * (q / p).log()).sum(),
    "js": lambda p, q: (p * (2 * p / (p + q)).log() + q * (2 * q / (p + q)).log()).sum(),
    "chi": lambda p, q: ((p - q) ** 2 / q).sum(),
    "alpha": lambda p, q: 4 * (1 - (p * q).sqrt().sum()),  # alpha = 1/2: squared Hellinger
    "tv": lambda p, q: (p - q).abs().sum() / 2,
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_the_expected_update_is_the_gradient_of_the_regularised_objective(name: str, seed: int):
    policy, reference, rewards = world(seed)
    actual = trainers_gradient(policy, reference, rewards, FDivergence(name, form="gradient"))
    expected = objectives_gradient(policy, reference, rewards, DIVERGENCES[name])
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
