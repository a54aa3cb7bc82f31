"""Renyi and Tsallis divergences: their defining sums in float64, limits, variations, extremes."""

import math

import numpy as np
import pytest
import torch
from dschat.regularization import FDivergence, KLDivergence, RenyiDivergence, TsallisDivergence
from scipy.special import rel_entr

ORDERS = [0.2, 0.5, 0.9, 1.3, 2.0, 3.0]
MADE = [make(order) for make in (RenyiDivergence, TsallisDivergence) for order in ORDERS]


def identify(regularizer):
    return f"{regularizer.name}-{regularizer.order}"


def every_token(regularizer, policy_row, reference_row):
    """Token penalties of all V tokens of one position, and its divergence."""
    count = len(policy_row)
    penalty = regularizer(
        policy_row.expand(count, -1), reference_row.expand(count, -1), torch.arange(count)
    )
    return penalty.token, penalty.divergence[0]


def by_definition(name, pi, rho, order):
    power_sum = (pi**order * rho ** (1 - order)).sum(-1)
    if name == "renyi":
        return np.log(power_sum) / (order - 1)
    return (power_sum - 1) / (order - 1)


@pytest.mark.parametrize("regularizer", MADE, ids=identify)
def test_the_divergence_is_its_definition(regularizer, logits):
    policy, reference = logits
    pi, rho = policy.softmax(-1).numpy(), reference.softmax(-1).numpy()
    expected = by_definition(regularizer.name, pi, rho, regularizer.order)
    found = regularizer(policy, reference, torch.zeros(len(policy), dtype=torch.int64)).divergence
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("regularizer", MADE, ids=identify)
def test_the_penalty_has_mean_d_and_is_the_first_variation(regularizer, rng):
    policy, reference = 2 * torch.randn(2, 7, generator=rng, dtype=torch.float64)
    pi = policy.softmax(-1)
    token, divergence = every_token(regularizer, policy, reference)
    torch.testing.assert_close((pi * token).sum(), divergence, rtol=1e-9, atol=1e-11)
    direction = torch.randn(7, generator=rng, dtype=torch.float64) * pi
    direction = direction - pi * direction.sum()
    step = 1e-6
    ahead, behind = (
        every_token(regularizer, (pi + s * direction).log(), reference)[1] for s in (step, -step)
    )
    slope = (ahead - behind) / (2 * step)
    torch.testing.assert_close((token * direction).sum(), slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("make", [RenyiDivergence, TsallisDivergence])
def test_towards_order_1_both_are_kl_in_float32_too(make, rng):
    policy, reference = torch.randn(2, 5, 400, generator=rng)
    actions = torch.randint(400, (5,), generator=rng)
    kl = torch.from_numpy(
        rel_entr(policy.double().softmax(-1).numpy(), reference.double().softmax(-1).numpy())
    ).sum(-1)
    for order in (1 - 1e-6, 1 + 1e-6):
        penalty = make(order)(policy, reference, actions)
        torch.testing.assert_close(penalty.divergence.double(), kl, rtol=1e-5, atol=0)
        expected = KLDivergence()(policy.double(), reference.double(), actions).token
        torch.testing.assert_close(penalty.token.double(), expected, rtol=1e-4, atol=1e-5)


def test_relatives(rng):
    policy, reference = torch.randn(2, 6, 9, generator=rng, dtype=torch.float64)
    actions = torch.randint(9, (6,), generator=rng)

    def both(regularizer):
        penalty = regularizer(policy, reference, actions)
        return penalty.token, penalty.divergence

    pairs = [
        (both(TsallisDivergence(2.0)), both(FDivergence("chi", form="gradient")), 1.0),
        (both(TsallisDivergence(0.3)), both(FDivergence("alpha", 0.7, "gradient")), 0.3),
    ]
    for found, expected, factor in pairs:
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, factor * b)
    # Renyi's divergences rise with the order.
    by_order = torch.stack([both(RenyiDivergence(order))[1] for order in ORDERS])
    assert (by_order[1:] >= by_order[:-1]).all()


@pytest.mark.parametrize("regularizer", MADE, ids=identify)
def test_near_the_reference_float32_keeps_its_digits(regularizer, rng):
    reference = torch.randn(4, 2000, generator=rng, dtype=torch.float64)
    policy = reference + 1e-3 * torch.randn(4, 2000, generator=rng, dtype=torch.float64)
    actions = torch.randint(2000, (4,), generator=rng)
    exact = regularizer(policy, reference, actions)
    single = regularizer(policy.float(), reference.float(), actions)
    torch.testing.assert_close(single.divergence.double(), exact.divergence, rtol=2e-2, atol=0)
    torch.testing.assert_close(single.token.double(), exact.token, rtol=0, atol=1e-5)


@pytest.mark.parametrize("regularizer", MADE, ids=identify)
def test_impossible_tokens_stay_finite(regularizer, extreme_logits):
    policy, reference = extreme_logits
    for action in (0, 3, 6):
        actions = torch.full((len(policy),), action)
        penalty = regularizer(policy, reference, actions)
        assert penalty.token.dtype == penalty.divergence.dtype == torch.float32
        assert torch.isfinite(penalty.token.square()).all()
        assert (penalty.divergence >= 0).all()
        assert all(math.isfinite(value) for value in penalty.metrics.values())


@pytest.mark.parametrize("order", [0.0, -1.0, 1.0, math.inf, math.nan])
def test_orders_without_meaning_are_refused(order):
    for make in (RenyiDivergence, TsallisDivergence):
        with pytest.raises(ValueError, match="above 0 other than 1"):
            make(order)
