"""k1, k2, k3 and top-k estimates in the reward and in the loss: what their gradients are, exactly.

All responses of the tabular world go through the trainer's own scoring functions and losses.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dschat.algorithms.losses import ppo_clip
from dschat.errors import UserError
from dschat.online.kl_loss import DivergenceLoss
from dschat.online.losses import LossSettings, actor_loss
from dschat.regularization import SampledKL
from dschat.rollout.experience import Experience, Rollout
from dschat.scoring.arrangement import regrouped
from dschat.scoring.scoring import TokenScores, to_experience
from online_fixtures import make_trainer, ready, rollouts_of
from tabular import (
    DIVERGENCES,
    LIMIT,
    PREFIXES,
    RESPONSES,
    logprobs_of,
    objectives_gradient,
    rows_of,
    trainers_gradient,
    world,
)
from tabular_actor import Table, met
from torch import Tensor

CLIP = SimpleNamespace(
    clip_range=0.2, clip_range_high=None, dual_clip=None, loss_normalization="token"
)
BETA = 0.7


def experience_of(response: Any, old: Tensor, reference: Tensor, regularizer: Any) -> Experience:
    """One response as the trainer scores it under the policy that sampled."""
    mask = torch.tensor([[t < len(response) for t in range(LIMIT)]])
    ids = torch.tensor([[*response, *[0] * (LIMIT - len(response))]])
    flag = torch.zeros(1, dtype=torch.bool)
    rollout = Rollout(ids, ids, mask, flag, flag, [""], [""], [{}], torch.arange(1))
    rows, actions = rows_of(response), torch.tensor(response)
    penalty = regularizer(old[rows], reference[rows], actions)
    own, other = (
        x[rows].log_softmax(1).gather(1, actions[:, None])[:, 0] for x in (old, reference)
    )
    scores = TokenScores(
        own, other, penalty.token, penalty.divergence, torch.zeros_like(own), penalty.candidates
    )
    e = to_experience(rollout, scores, None, torch.zeros(1))
    return replace(e, advantages=torch.zeros(1, LIMIT, dtype=torch.float64))


def expected_loss(
    policy: Tensor, old: Tensor, reference: Tensor, term: str, top_k: int = 1, name: str = "rkl"
) -> tuple[Tensor, Tensor]:
    """Expectation over the old policy's responses of the loss and of its gradient."""
    regularizer = SampledKL("loss", term, top_k, name)
    settings = LossSettings(
        partial(ppo_clip, settings=CLIP), divergence=DivergenceLoss(BETA, term, name)
    )
    gradient, value = torch.zeros_like(policy), torch.zeros((), dtype=policy.dtype)
    for response, logprobs in zip(RESPONSES, logprobs_of(old), strict=True):
        e = experience_of(response, old, reference, regularizer)
        parts = actor_loss(Table(policy, rows_of(response)), e, settings, 1.0, 1.0)
        probability = logprobs.sum().exp()
        gradient += probability * torch.autograd.grad(parts["loss"], policy)[0]
        value = value + probability * parts["kl_loss"].detach()
    return value, gradient


def at_states(policy: Tensor, old: Tensor, reference: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """BETA * sum over prefixes of P_old(prefix) D(prefix), and its gradient, states held fixed."""
    pairs = zip(policy.softmax(1), reference.softmax(1), strict=True)
    per_prefix = torch.stack([DIVERGENCES[name](p, q) for p, q in pairs])
    total = BETA * (met(old) * per_prefix).sum()
    return total.detach(), torch.autograd.grad(total, policy)[0]


def worlds(seed: int, off_policy: bool) -> tuple[Tensor, Tensor, Tensor]:
    policy, reference, _ = world(seed)
    noise = torch.randn(policy.shape, generator=torch.Generator().manual_seed(seed + 50))
    old = policy.detach() + (0.3 * noise.double() if off_policy else 0)
    return policy, old, reference


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("term", "name"), [("k2", "rkl"), ("k3", "fkl")])
def test_k2_in_the_loss_is_reverse_kl_and_k3_forward_kl_at_the_states(term, name, seed) -> None:
    policy, old, reference = worlds(seed, off_policy=False)
    _, gradient = expected_loss(policy, old, reference, term)
    _, expected = at_states(policy, old, reference, name)
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=1e-9)
    # On another policy's tokens neither is: no ratio enters, as in the peers.
    policy, old, reference = worlds(seed, off_policy=True)
    _, gradient = expected_loss(policy, old, reference, term)
    _, expected = at_states(policy, old, reference, name)
    assert (gradient - expected).norm() > 0.05 * expected.norm()


@pytest.mark.parametrize("off_policy", [False, True])
@pytest.mark.parametrize("top_k", [0, 1, 2, 3])
@pytest.mark.parametrize("name", ["rkl", "fkl", "js", "chi"])
def test_top_k_has_value_and_gradient_of_every_divergence(name, top_k, off_policy) -> None:
    policy, old, reference = worlds(3, off_policy)
    value, gradient = expected_loss(policy, old, reference, "top_k", top_k, name)
    expected_value, expected = at_states(policy, old, reference, name)
    torch.testing.assert_close(value, expected_value, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=1e-9)


def test_what_a_term_of_the_loss_leaves_out_is_how_tokens_change_later_states() -> None:
    policy, old, reference = worlds(0, off_policy=False)
    _, in_loss = expected_loss(policy, old, reference, "top_k", 3)
    nothing = torch.zeros(len(RESPONSES), dtype=torch.float64)
    whole = -objectives_gradient(policy, reference, nothing, DIVERGENCES["rkl"])
    last = [row for row, prefix in enumerate(PREFIXES) if len(prefix) == LIMIT - 1]
    # States that are followed by none have the whole gradient, the others do not.
    torch.testing.assert_close(in_loss[last], whole[last], atol=1e-12, rtol=1e-9)
    relative = float((in_loss - whole).norm() / whole.norm())
    print(f"left out: {relative:.3f} of the gradient")
    assert relative > 0.05


@pytest.mark.parametrize("seed", [0, 1])
def test_k1_in_the_reward_has_the_gradient_of_kl(seed) -> None:
    policy, reference, rewards = world(seed)
    actual = trainers_gradient(policy, reference, rewards, SampledKL("reward", "k1"))
    expected = objectives_gradient(policy, reference, rewards, DIVERGENCES["rkl"])
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("term", ["k2", "k3"])
def test_near_the_reference_k2_and_k3_in_the_reward_hardly_pull_back(term) -> None:
    # Their gradient is of the second order in the drift, KL's of the first.
    _, reference, _ = world(1)
    nothing = torch.zeros(len(RESPONSES), dtype=torch.float64)
    sizes = []
    for drift in (0.01, 0.1):
        noise = torch.randn(reference.shape, generator=torch.Generator().manual_seed(9)).double()
        policy = (reference + drift * noise).requires_grad_()
        actual = trainers_gradient(policy, reference, nothing, SampledKL("reward", term))
        expected = objectives_gradient(policy, reference, nothing, DIVERGENCES["rkl"])
        sizes.append(float(actual.norm() / expected.norm()))
        cosine = torch.cosine_similarity(actual.flatten(), expected.flatten(), dim=0)
        print(f"{term} in the reward, drift {drift}: size {sizes[-1]:.3f}, cosine {cosine:+.3f}")
    assert sizes[0] < 0.02
    assert sizes[1] == pytest.approx(10 * sizes[0], rel=0.3)


def test_k1_in_the_loss_and_top_k_in_the_reward_are_refused(settings: Any) -> None:
    for changes, message in (
        ({"kl_placement": "loss"}, "mean gradient of a log-ratio"),
        ({"kl_term": "top_k"}, "no gradient of it would be left"),
        ({"kl_term": "k2", "top_k": 3}, "--top_k belongs to --kl_term top_k"),
    ):
        with pytest.raises(UserError, match=message):
            make_trainer(settings(regularizer="sampled_kl", **changes))


@pytest.mark.parametrize("term", ["k2", "top_k"])
def test_a_run_adds_the_term_to_the_loss_and_nothing_to_the_reward(settings: Any, term) -> None:
    changes: dict[str, Any] = {"kl_placement": "loss", "kl_term": term, "algorithm": "rloo"}
    trainer = make_trainer(
        settings(
            regularizer="sampled_kl",
            kl_ctl=0.3,
            num_generations=4,
            loss_normalization="sequence",
            ppo_epochs=2,
            **changes,
        )
    )
    first, second = (trainer.run_iteration(trainer.prompts[:2]) for _ in range(2))
    assert first["kl_loss"] > 0  # the second pass is no longer the reference
    assert second["token_penalty"] == 0
    assert second["penalised_reward"] == second["reward"]
    assert second["divergence"] > 0
    assert second["skipped"] == 0


def test_candidates_follow_their_rows_into_other_micro_batches(settings: Any) -> None:
    changes = {"kl_placement": "loss", "kl_term": "top_k", "top_k": 5}
    trainer = make_trainer(settings(regularizer="sampled_kl", **changes))
    responses = [[10 + i] * (1 + i % 4) for i in range(8)]
    given = ready(trainer, rollouts_of(trainer, responses))
    order = [[7, 0, 3, 2], [5, 4, 1, 6]]
    found = regrouped(given, order, trainer.tokenizer.pad_token_id)
    for batch, e in zip(order, found, strict=True):
        for place, row in enumerate(batch):
            source, length = given[row // 4], len(responses[row])
            for name in ("candidates", "candidate_logprobs"):
                ours, theirs = getattr(e, name), getattr(source, name)
                assert torch.equal(ours[place, :length], theirs[row % 4, :length])
