"""Which losses are policy gradients of what, in the world of `test_tabular_world`, by enumeration.

Every pair of responses is a group and a batch of its own. The trainer's targets and policy losses,
normaliser included, give the pair's gradient; its expectation over all pairs is compared with
autograd's gradient of E[R] - beta E[sum_t D_t]. What is exact is asserted to be, and of what is
biased by how much: the share of the expected update that is no multiple of that gradient.
"""

from __future__ import annotations

import itertools
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dschat.algorithms import loss_count
from dschat.regularization import KLDivergence, MultiReference
from dschat.scoring.targets import Targets
from dschat.settings.parts import ADVANTAGES, POLICY_LOSSES
from tabular import BETA, DIVERGENCES, LIMIT, RESPONSES, logprobs_of, objectives_gradient, world
from tabular_references import experience, token_penalties
from torch import Tensor

PAIRS = list(itertools.product(range(len(RESPONSES)), repeat=2))
SETTINGS = {
    "gamma": 1.0,
    "scale_rewards": False,
    "clip_range": 0.2,
    "clip_range_high": None,
    "dual_clip": None,
    "gspo_clip_range": 3e-4,
    "gspo_clip_range_high": 4e-4,
    "cispo_ratio_min": 0.0,
    "cispo_ratio_max": 5.0,
}


def expected_update(
    seed: int,
    advantage: str,
    loss: str,
    normalization: str,
    spread_only: bool = False,
    levels: bool = False,
    beta: float = BETA,
    **changes: Any,
) -> tuple[Tensor, Tensor]:
    """(expectation of minus the gradient of the trainer's loss, the objective's gradient).

    Args:
        spread_only: only pairs of unequal rewards count, as under dynamic sampling.
        levels: rewards of 0 and 1 instead of real numbers.
    """
    policy, reference, rewards = world(seed)
    if levels:
        rewards = (rewards > 0).double()
    logprobs = logprobs_of(policy)
    probability = logprobs.sum(1).exp().detach()
    penalty = MultiReference(KLDivergence("exact"), [1.0])
    token = token_penalties(penalty, policy, [reference])
    settings = SimpleNamespace(**SETTINGS | {"loss_normalization": normalization} | changes)
    targets = Targets(
        partial(ADVANTAGES[advantage].load(), settings=settings), beta, None, 0.0, 2, 2
    )
    total, chance = logprobs.new_zeros(()), 0.0
    for pair in PAIRS:
        rows = torch.tensor(pair)
        if spread_only and rewards[pair[0]] == rewards[pair[1]]:
            continue
        (e,), _ = targets([experience(rows, logprobs, token, rewards)], 0)
        mask = e.rollout.response_mask
        share, _ = POLICY_LOSSES[loss].load()(
            logprobs[rows],
            e.logprobs,
            e.advantages,
            mask,
            loss_count(mask, normalization, LIMIT),
            settings,
        )
        total = total + probability[rows].prod() * share
        chance += float(probability[rows].prod())
    (gradient,) = torch.autograd.grad(total, policy, retain_graph=True)

    objective = objectives_gradient(policy, reference, rewards, lambda p, q: beta_of(p, q, beta))
    return -gradient / chance, objective


def beta_of(p: Tensor, q: Tensor, beta: float) -> Tensor:
    """D, so that the fixture's BETA times it is beta times KL."""
    return DIVERGENCES["rkl"](p, q) * beta / BETA


def bias(found: Tensor, objective: Tensor) -> float:
    """The sine of the angle between both: 0 for a multiple."""
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), objective.flatten(), dim=0)
    return float((1 - cosine.clamp(-1, 1).square()).sqrt())


@pytest.mark.parametrize("loss", ["ppo_clip", "gspo", "cispo"])
@pytest.mark.parametrize(("advantage", "share"), [("rloo", 1.0), ("grpo", 0.5)])
def test_with_a_constant_normaliser_the_update_is_the_objectives_gradient(
    loss: str, advantage: str, share: float
) -> None:
    """Dr. GRPO's is (1 - 1/G) of it, penalty and reward alike."""
    found, objective = expected_update(0, advantage, loss, "constant")
    torch.testing.assert_close(found, share * objective / LIMIT, atol=1e-7, rtol=1e-5)


MEASURED = [
    # advantage, loss, normalisation, settings, the bias
    ("grpo", "ppo_clip", "token", {}, 0.155),
    ("grpo", "ppo_clip", "sequence", {}, 0.404),
    ("grpo", "gspo", "sequence", {}, 0.404),
    ("grpo", "ppo_clip", "constant", {"scale_rewards": True}, 0.722),
    ("reinforce++", "ppo_clip", "constant", {}, 0.607),
    ("reinforce++_baseline", "ppo_clip", "constant", {}, 0.389),
]


@pytest.mark.parametrize(("advantage", "loss", "normalization", "changes", "expected"), MEASURED)
def test_what_is_biased_and_by_how_much(
    advantage: str, loss: str, normalization: str, changes: dict[str, Any], expected: float
) -> None:
    """docs/losses.md gives these figures."""
    found = bias(*expected_update(0, advantage, loss, normalization, **changes))
    assert found == pytest.approx(expected, abs=0.005)


def test_leaving_out_equal_groups_scales_the_rewards_gradient_but_not_the_penaltys() -> None:
    exact = partial(expected_update, 1, "rloo", "ppo_clip", "constant", levels=True)
    assert bias(*exact(spread_only=True, beta=0.0)) < 1e-5
    assert bias(*exact(spread_only=False)) < 1e-5
    assert bias(*exact(spread_only=True)) > 0.05
