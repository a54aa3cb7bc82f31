"""DPPO's mask and DRPO's weight, from the papers' formulas by hand and by autograd."""

from types import SimpleNamespace

import pytest
import torch
from dschat.algorithms.trust_regions import binary_divergence, dppo, drpo
from scipy.stats import entropy

LOSSES = [
    (dppo, {"dppo_divergence": "tv", "dppo_threshold": 0.2}),
    (dppo, {"dppo_divergence": "kl", "dppo_threshold": 0.05}),
    (drpo, {"drpo_delta": 0.2}),
]
PI = torch.tensor([[0.9, 0.1, 0.30, 0.05, 0.5, 0.6]], dtype=torch.float64)
MU = torch.tensor([[0.5, 0.5, 0.25, 0.01, 0.9, 0.2]], dtype=torch.float64)
ADVANTAGES = torch.tensor([[1.0, -2.0, 1.0, 1.0, 3.0, -1.0]], dtype=torch.float64)
MASK = torch.ones(1, 6, dtype=torch.bool)


def gradient(loss, options, pi=PI, mu=MU, advantages=ADVANTAGES, mask=MASK):
    logprobs = pi.log().requires_grad_()
    settings = SimpleNamespace(loss_normalization="token", **options)
    value, sums = loss(logprobs, mu.log(), advantages, mask, 1.0, settings)
    return torch.autograd.grad(value, logprobs)[0], sums


@pytest.mark.parametrize("kind", ["tv", "kl"])
def test_dppo_leaves_out_what_is_far_and_leads_away(kind):
    threshold = 0.2 if kind == "tv" else 0.05
    found, sums = gradient(dppo, {"dppo_divergence": kind, "dppo_threshold": threshold})
    # Far and leading away: the first two. A ratio of 5 at 0.01 is near; the last two come back.
    expected = -ADVANTAGES * PI / MU
    expected[0, :2] = 0
    torch.testing.assert_close(found, expected)
    assert float(sums["clip_fraction"]) == 2


def test_the_binary_kl_is_scipys():
    found = binary_divergence(PI.log(), MU.log(), "kl")[0]
    pairs = zip(MU[0].tolist(), PI[0].tolist(), strict=True)
    expected = [entropy([m, 1 - m], [p, 1 - p]) for m, p in pairs]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_drpo_weighs_the_gradient_as_published():
    found, _ = gradient(drpo, {"drpo_delta": 0.2})
    ratio = PI / MU
    weight = 1 - (ADVANTAGES * (ratio - 1)).sign() * (PI - MU).abs() / 0.2
    torch.testing.assert_close(found, -ADVANTAGES * ratio * weight)
    assert weight[0, 0] < 0 < weight[0, 4] - 1  # turned round beyond, amplified on the way back


@pytest.mark.parametrize(("loss", "options"), LOSSES)
def test_on_policy_it_is_the_policy_gradient_and_of_degree_1_in_the_advantages(loss, options):
    found, _ = gradient(loss, options, mu=PI)
    torch.testing.assert_close(found, -ADVANTAGES)
    once, _ = gradient(loss, options)
    torch.testing.assert_close(gradient(loss, options, advantages=3 * ADVANTAGES)[0], 3 * once)


@pytest.mark.parametrize(("loss", "options"), LOSSES)
def test_what_is_masked_may_be_nan(loss, options):
    mask = MASK.clone()
    mask[0, 3:] = False
    pi, mu, advantages = (x.clone() for x in (PI, MU, ADVANTAGES))
    mu[0, 3:] = advantages[0, 3:] = torch.nan
    found, sums = gradient(loss, options, pi, mu, advantages, mask)
    expected, _ = gradient(loss, options)
    torch.testing.assert_close(found[0, :3], expected[0, :3])
    assert (found[0, 3:] == 0).all()
    assert all(value.isfinite() for value in sums.values())
