"""DPO with several references reaches the closed-form optima of the objectives it stands for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from dschat.algorithms.preferences import (
    dpo_margins,
    guarded_exp,
    implicit_rewards,
    mix_sequence_logprobs,
)
from scipy.optimize import brentq
from scipy.special import lambertw
from torch import Tensor

END = 0


def sequences(vocabulary: int, longest: int) -> list[tuple[int, ...]]:
    """Every response: it ends with END, or is cut at the longest length."""
    found: list[tuple[int, ...]] = []
    for length in range(1, longest + 1):
        for body in itertools.product(range(1, vocabulary), repeat=length - 1):
            found += [(*body, END)]
            if length == longest:
                found += [(*body, token) for token in range(1, vocabulary)]
    return found


class World:
    """All responses of up to 3 tokens, references as tables of logits per prefix, and a reward."""

    def __init__(self, vocabulary: int, references: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.vocabulary = vocabulary
        self.sequences = sequences(vocabulary, 3)
        self.prefixes = sorted({s[:t] for s in self.sequences for t in range(len(s))})
        shape = (len(self.prefixes), vocabulary)
        tables = torch.randn(references, *shape, generator=generator, dtype=torch.float64)
        self.references = torch.stack([self.logprobs(table) for table in tables])
        self.reward = torch.randn(len(self.sequences), generator=generator, dtype=torch.float64)
        assert self.reward.min() < 0 < self.reward.max()

    def logprobs(self, table: Tensor) -> Tensor:
        """[prefixes, V] logits -> [sequences] log-probabilities."""
        tokens = table.log_softmax(dim=1)
        place = {prefix: i for i, prefix in enumerate(self.prefixes)}
        return torch.stack(
            [
                sum((tokens[place[s[:t]], s[t]] for t in range(len(s))), torch.zeros(()))
                for s in self.sequences
            ]
        )

    def expected_loss(self, policy: Tensor, reference: Tensor, gamma: float, kl: str) -> Tensor:
        """E[-log sigmoid(margin)] over all ordered pairs, preferred as Bradley-Terry in R."""
        n = len(self.sequences)
        w, l = torch.cartesian_prod(torch.arange(n), torch.arange(n)).unbind(1)
        keep = w != l
        w, l = w[keep], l[keep]
        pair = (reference[..., w], reference[..., l])
        margins, _ = dpo_margins(policy[w], policy[l], *pair, gamma, kl)
        preferred = (self.reward[w] - self.reward[l]).sigmoid()
        return -(preferred * torch.nn.functional.logsigmoid(margins)).mean()


def minimise(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    parameters = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=600,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(parameters)
        value.backward()
        return value

    optimizer.step(closure)
    return parameters.detach()


def optimum(world: World, weights: list[float], gamma: float, kl: str) -> Tensor:
    """The maximiser of the expected reward minus gamma times the penalty, in closed form."""
    rho, reward = world.references.exp(), world.reward
    if kl == "rkl":
        unnormalised = torch.ones_like(reward)
        for weight, probabilities in zip(weights, rho, strict=True):
            unnormalised = unnormalised * probabilities**weight
        unnormalised = unnormalised * (reward / gamma).exp()
        return unnormalised / unnormalised.sum()
    mean = sum(weight * p for weight, p in zip(weights, rho, strict=True))
    assert isinstance(mean, Tensor)
    if kl == "rkl_chi2":
        return mixed_optimum(rho, weights, reward, gamma)
    top = float(reward.max())

    def excess(z: float) -> float:
        return float((gamma * mean / (z - reward)).sum()) - 1

    z = brentq(excess, top + 1e-12, top + gamma + 100.0, xtol=1e-15, rtol=1e-15)
    return gamma * mean / (z - reward)


def mixed_optimum(rho: Tensor, weights: list[float], reward: Tensor, gamma: float) -> Tensor:
    """pi with log(pi / g) + pi / h = (R - Z) / gamma: pi = h W((g / h) exp((R - Z) / gamma))."""
    w = torch.tensor(weights, dtype=rho.dtype).unsqueeze(1)
    g, h = (rho**w).prod(dim=0), 1 / (w / rho).sum(dim=0)

    def policy(z: float) -> Tensor:
        inside = (g / h * ((reward - z) / gamma).exp()).numpy()
        return h * torch.from_numpy(lambertw(inside).real)

    z = brentq(lambda z: float(policy(z).sum()) - 1, -100.0, 100.0, xtol=1e-15, rtol=1e-15)
    return policy(z)


CASES = [
    ("rkl", 3, [0.3, 0.7], 0.5),
    ("rkl", 4, [0.2, 0.5, 0.3], 1.0),
    ("fkl", 3, [0.3, 0.7], 1.0),
    ("fkl", 4, [0.2, 0.5, 0.3], 0.5),
    ("rkl_chi2", 3, [0.3, 0.7], 1.0),
    ("rkl_chi2", 4, [0.2, 0.5, 0.3], 0.5),
]


@pytest.mark.parametrize(("kl", "vocabulary", "weights", "gamma"), CASES)
def test_dpo_finds_the_closed_form_optimum(
    kl: str, vocabulary: int, weights: list[float], gamma: float
) -> None:
    world = World(vocabulary, len(weights), seed=vocabulary)
    reference = mix_sequence_logprobs(world.references, weights, kl)
    start = torch.zeros(len(world.sequences), dtype=torch.float64)
    logits = minimise(
        lambda x: world.expected_loss(x.log_softmax(dim=0), reference, gamma, kl), start
    )
    found = logits.softmax(dim=0)
    expected = optimum(world, weights, gamma, kl)
    assert abs(float(expected.sum()) - 1) < 1e-9
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    # The weights matter: equal ones give another policy.
    other = optimum(world, [1 / len(weights)] * len(weights), gamma, kl)
    assert 0.5 * float((found - other).abs().sum()) > 1e-3


@pytest.mark.parametrize("kl", ["rkl", "fkl", "rkl_chi2"])
def test_a_policy_with_a_table_per_prefix_finds_it_too(kl: str) -> None:
    weights, gamma = [0.25, 0.75], 1.0
    world = World(3, 2, seed=7)
    reference = mix_sequence_logprobs(world.references, weights, kl)
    start = torch.zeros(len(world.prefixes), world.vocabulary, dtype=torch.float64)
    table = minimise(lambda x: world.expected_loss(world.logprobs(x), reference, gamma, kl), start)
    expected = optimum(world, weights, gamma, kl)
    torch.testing.assert_close(world.logprobs(table).exp(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kl", ["rkl", "fkl", "rkl_chi2"])
def test_the_optimum_is_the_objectives_own(kl: str) -> None:
    """The closed form itself is checked: ascending reward - penalty numerically leads to it."""
    weights, gamma = [0.25, 0.75], 0.5
    world = World(3, 2, seed=11)

    def negative_objective(logits: Tensor) -> Tensor:
        log_pi = logits.log_softmax(dim=0)
        value = (log_pi.exp() * world.reward).sum()
        for weight, log_rho in zip(weights, world.references, strict=True):
            p, q = (log_rho, log_pi) if kl == "fkl" else (log_pi, log_rho)
            value = value - gamma * weight * (p.exp() * (p - q)).sum()
            if kl == "rkl_chi2":
                squares = ((log_pi - log_rho).exp() - 1) ** 2
                value = value - gamma * weight * (log_rho.exp() * squares).sum() / 2
        return -value

    # From the closed form of another gamma: far from the answer, and not at it.
    start = optimum(world, weights, 4 * gamma, kl).log()
    found = minimise(negative_objective, start).softmax(dim=0)
    torch.testing.assert_close(found, optimum(world, weights, gamma, kl), rtol=1e-4, atol=1e-6)


def test_the_mixtures_are_those_of_probabilities() -> None:
    rho = torch.tensor([[0.5, 0.1], [0.2, 0.4]], dtype=torch.float64)
    geometric = mix_sequence_logprobs(rho.log(), [0.25, 0.75], "rkl").exp()
    arithmetic = mix_sequence_logprobs(rho.log(), [0.25, 0.75], "fkl").exp()
    assert geometric.tolist() == pytest.approx([0.5**0.25 * 0.2**0.75, 0.1**0.25 * 0.4**0.75])
    assert arithmetic.tolist() == pytest.approx([0.275, 0.325])


@pytest.mark.parametrize("kl", ["rkl", "fkl", "rkl_chi2"])
def test_long_texts_and_weight_zero(kl: str) -> None:
    long = torch.tensor([[-5000.0, -6000.0], [-torch.inf, -1.0]])
    mixed = mix_sequence_logprobs(long, [1.0, 0.0], kl)
    assert torch.equal(mixed, long[0].expand_as(mixed))
    both = mix_sequence_logprobs(torch.tensor([[-5000.0], [-5000.0]]), [0.5, 0.5], kl)
    assert both.flatten().tolist() == pytest.approx([-5000.0] * both.numel(), abs=1e-3)


@pytest.mark.parametrize(
    "weights", [[1.0], [0.5, 0.4], [1.5, -0.5], [math.nan, 1.0], [0.3, 0.3, 0.4]]
)
def test_weights_that_are_no_distribution_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        mix_sequence_logprobs(torch.zeros(2, 3), weights, "rkl")


def test_unknown_divergences_and_gammas_are_refused() -> None:
    with pytest.raises(ValueError, match="rkl, fkl"):
        mix_sequence_logprobs(torch.zeros(1, 3), [1.0], "js")
    with pytest.raises(ValueError, match="gamma"):
        implicit_rewards(torch.zeros(3), torch.zeros(3), 0.0, "rkl")
    with pytest.raises(ValueError, match="shapes"):
        implicit_rewards(torch.zeros(3), torch.zeros(2), 1.0, "rkl")


def test_the_guard_keeps_value_slope_and_direction() -> None:
    x = torch.tensor([-3.0, 1.9, 2.0, 2.1, 90.0, 5000.0], dtype=torch.float64, requires_grad=True)
    y = guarded_exp(x, limit=2.0)
    y.sum().backward()
    assert y[:2].tolist() == pytest.approx([math.exp(-3), math.exp(1.9)])
    assert y[3].item() == pytest.approx(math.exp(2) * 1.1)
    assert bool((y.diff() > 0).all())
    assert x.grad is not None
    top = math.exp(2)
    assert x.grad.tolist() == pytest.approx([math.exp(-3), math.exp(1.9), top, top, top, top])


def test_a_lost_response_is_still_pulled_back() -> None:
    """log(reference / policy) = 500: exp overflows, a clamp gives no gradient, the guard does."""
    chosen = torch.tensor([-700.0], requires_grad=True)
    rejected = torch.tensor([-20.0], requires_grad=True)
    reference = torch.tensor([-200.0]), torch.tensor([-20.0])
    margins, share = dpo_margins(chosen, rejected, *reference, gamma=0.1, kl_type="fkl")
    loss = -torch.nn.functional.logsigmoid(margins).sum()
    loss.backward()
    assert bool(loss.isfinite())
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.item() < -1  # descending raises the chosen response's log-probability
    assert 0 < rejected.grad.item() < 1
    assert share.item() == 0.5


def test_rkl_margins_by_hand_and_unguarded() -> None:
    t = torch.tensor
    margins, share = dpo_margins(t([-10.0]), t([-500.0]), t([-12.0]), t([-9.0]), 0.5, "rkl")
    assert margins.item() == pytest.approx(0.5 * (2.0 + 491.0))
    assert share.item() == 0.0
    margins, _ = dpo_margins(t([-10.0]), t([-11.0]), t([-12.0]), t([-9.0]), 0.5, "fkl")
    assert margins.item() == pytest.approx(0.5 * (math.exp(2.0) - math.exp(-2.0)), rel=1e-6)


def test_the_mixed_link_is_chi_pos() -> None:
    """beta [phi(z_w) - phi(z_l)], phi(z) = z + log z, z = pi / rho; guarded if z is huge."""
    policy = (
        torch.tensor([-10.0, -10.0], dtype=torch.float64),
        torch.tensor([-11.5, -700.0]).double(),
    )
    rho = torch.tensor([[-12.0, -900.0]]).double(), torch.tensor([[-9.0, -20.0]]).double()
    mixed = [mix_sequence_logprobs(x, [1.0], "rkl_chi2") for x in rho]
    chosen = policy[0].clone().requires_grad_()
    margins, share = dpo_margins(chosen, policy[1], *mixed, 0.5, "rkl_chi2")
    by_hand = 0.5 * (math.exp(2.0) + 2.0 - math.exp(-2.5) + 2.5)
    assert float(margins[0].detach()) == pytest.approx(by_hand, rel=1e-12)
    assert share.item() == 0.25
    margins.sum().backward()
    assert chosen.grad is not None
    slopes = [0.5 * (1 + math.exp(2.0)), 0.5 * (1 + math.exp(10.0))]
    assert chosen.grad.tolist() == pytest.approx(slopes, rel=1e-12)
