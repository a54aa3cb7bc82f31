"""The coupled Sinkhorn iteration and its kernels against plain arithmetic in double precision."""

import math

import pytest
import torch
from dschat.regularization.transport.sinkhorn_kernels import LogKernel, ScalingKernel
from dschat.regularization.transport.sinkhorn_solver import _solve_bins, solve


def problem(rng, n=6, bins=12, epsilon=0.05, step=1.0, dimension=16):
    """log p, log q [n, bins] and costs [n, bins, bins] over epsilon, float64."""
    points = torch.randn(n, bins, dimension, generator=rng, dtype=torch.float64)
    costs = torch.cdist(points, points)
    costs = costs / costs.mean((1, 2), keepdim=True) / epsilon
    noise = torch.randn(2, n, bins, generator=rng, dtype=torch.float64)
    return (2 * noise[0]).log_softmax(1), (2 * noise[0] + step * noise[1]).log_softmax(1), costs


def plan(log_p, log_q, f, g, costs):
    costs = costs.clone()
    costs.diagonal(dim1=1, dim2=2).zero_()
    return torch.exp((log_p + f).unsqueeze(2) + (log_q + g).unsqueeze(1) - costs)


@pytest.mark.parametrize("kernel", [LogKernel, ScalingKernel])
@pytest.mark.parametrize("epsilon", [0.005, 0.05, 0.5, 50.0])
def test_plans_have_their_marginals(kernel, epsilon, rng):
    log_p, log_q, costs = problem(rng, epsilon=epsilon)
    # At 0.005 most problems take hundreds of updates, and one in some hundred over 10,000.
    solved = solve(log_p, log_q, costs, 100_000, 1e-6, kernel)
    assert solved.converged.all()
    p, q = log_p.exp(), log_q.exp()
    for row, column, f, g in (
        (p, q, solved.cross_policy, solved.cross_reference),
        (p, p, solved.self_policy, solved.self_policy),
        (q, q, solved.self_reference, solved.self_reference),
    ):
        found = plan(row.log(), column.log(), f, g, costs)
        error = (found.sum(2) - row).abs().sum(1) + (found.sum(1) - column).abs().sum(1)
        assert float(error.max()) <= 2e-6


def test_distributions_that_are_near_converge_in_a_few_updates(rng):
    """The plain iteration needs the more updates the nearer they are: hundreds here."""
    log_p, log_q, costs = problem(rng, n=50, bins=60, step=0.1)
    solved = solve(log_p, log_q, costs, 30, 1e-3)
    assert solved.converged.all()
    assert solved.iterations.double().mean() > 1
    f = g = torch.zeros_like(log_p)
    zero_diagonal = costs.clone()
    zero_diagonal.diagonal(dim1=1, dim2=2).zero_()
    for _ in range(100):
        f = -torch.logsumexp((log_q + g).unsqueeze(1) - zero_diagonal, 2)
        g = -torch.logsumexp((log_p + f).unsqueeze(1) - zero_diagonal, 2)
    error = (plan(log_p, log_q, f, g, costs).sum(2) - log_p.exp()).abs().sum(1)
    assert float(error.median()) > 1e-3


def test_both_equations_of_a_bin_hold_however_small_the_sums(rng):
    masses = torch.tensor([1.0, 0.3, 0.3 + 1e-9, 1e-6, 1e-30], dtype=torch.float64).log()
    sums = torch.tensor([30.0, 0.0, -5.0, -700.0], dtype=torch.float64)
    log_p, log_q, x, y = (
        t.flatten()[None] for t in torch.meshgrid(masses, masses, sums, sums, indexing="ij")
    )
    f, g = _solve_bins(log_p, log_q, x, y)
    zero = torch.zeros_like(f)
    torch.testing.assert_close(f + torch.logaddexp(log_q + g, x), zero, rtol=0, atol=1e-9)
    torch.testing.assert_close(g + torch.logaddexp(log_p + f, y), zero, rtol=0, atol=1e-9)


@pytest.mark.parametrize("spread", [1.0, 60.0, 400.0])
def test_kernels_agree_also_where_exponentials_underflow(spread, rng):
    costs = 20 * torch.rand(4, 9, 9, generator=rng)
    costs = costs + costs.mT
    costs.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    costs[1] *= 10
    weights = spread * torch.randn(4, 9, generator=rng)
    found = ScalingKernel(costs)(weights)
    exact = LogKernel(costs.double())(weights.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-4)
    assert math.isfinite(float(found.sum()))


def test_a_position_does_not_depend_on_the_others_of_its_block(rng):
    log_p, log_q, costs = problem(rng, epsilon=0.1)
    log_q[2] = log_p[2]
    whole = solve(log_p, log_q, costs.clone(), 100, 1e-4)
    for i in range(len(costs)):
        one = slice(i, i + 1)
        alone = solve(log_p[one], log_q[one], costs[one].clone(), 100, 1e-4)
        for field, expected in zip(alone, whole, strict=True):
            torch.testing.assert_close(field, expected[one], rtol=1e-9, atol=1e-9)
    assert whole.iterations[2] == 0
    assert torch.equal(whole.cross_policy[2], whole.self_policy[2])


def test_positions_of_a_block_do_not_influence_each_other(rng):
    """Most positions are equal and done at once; those that are not go on without them."""
    points = torch.randn(12, 2, generator=rng, dtype=torch.float64)
    costs = torch.cdist(points, points).expand(9, -1, -1) / 0.05
    p = torch.randn(9, 12, generator=rng, dtype=torch.float64)
    steps = torch.tensor([0, 3, 0, 0.3, 0, 1, 0.1, 0, 2], dtype=torch.float64).unsqueeze(1)
    q = p + steps * torch.randn(9, 12, generator=rng, dtype=torch.float64)
    log_p, log_q = p.log_softmax(1), q.log_softmax(1)
    together = solve(log_p, log_q, costs.clone(), 100, 1e-6)
    assert len(together.iterations.unique()) > 2
    for n in range(9):
        alone = solve(log_p[n : n + 1], log_q[n : n + 1], costs[n : n + 1].clone(), 100, 1e-6)
        for found, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(found[n : n + 1], expected, rtol=1e-6, atol=1e-8)
