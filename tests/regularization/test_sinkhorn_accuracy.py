"""How exact D and phi are at the default tolerance, against plans exact to 1e-11.

Potentials whose plan has the right marginals are those of the problem, however they were found.
"""

from typing import NamedTuple

import pytest
import torch
from dschat.regularization import SinkhornDivergence
from dschat.regularization.transport.sinkhorn_solver import Potentials, solve
from torch import Tensor

BINS, POSITIONS, TOL = 32, 12, 1e-3


class Problem(NamedTuple):
    """Distributions [N, S] in float64, Zipf-like, and costs [S, S] with nearest / mean of 0.6."""

    log_p: Tensor
    log_q: Tensor
    costs: Tensor


def problem(noise: float) -> Problem:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(BINS, 16, generator=generator, dtype=torch.float64)
    costs = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    costs = costs / (costs.sum() / (BINS * (BINS - 1)))
    rank = 1 + torch.arange(BINS)
    q = torch.randn(POSITIONS, BINS, generator=generator, dtype=torch.float64) - rank.log()
    p = q + noise * torch.randn(POSITIONS, BINS, generator=generator, dtype=torch.float64)
    return Problem(p.log_softmax(1), q.log_softmax(1), costs)


def marginal_error(log_p: Tensor, log_q: Tensor, f: Tensor, g: Tensor, costs: Tensor) -> Tensor:
    """L1 [N] of both marginals of the plan of potentials over epsilon."""
    plan = torch.exp((log_p + f).unsqueeze(2) + (log_q + g).unsqueeze(1) - costs)
    rows, columns = plan.sum(2) - log_p.exp(), plan.sum(1) - log_q.exp()
    return rows.abs().sum(1) + columns.abs().sum(1)


def first_variation(given: Problem, f: Tensor, g: Tensor, own_p: Tensor, own_q: Tensor) -> Tensor:
    """phi [N, S] over epsilon; D is its mean over p."""
    return f - own_p + (given.log_q.exp() * (g - own_q)).sum(1, keepdim=True)


def truth(given: Problem, epsilon: float) -> Tensor:
    log_p, log_q, scaled = given.log_p, given.log_q, given.costs / epsilon
    exact = solve(log_p, log_q, scaled.expand(POSITIONS, -1, -1).clone(), 10_000, 1e-12)
    f, g, own_p, own_q = exact[:4]
    own = ((log_p, log_p, own_p, own_p), (log_q, log_q, own_q, own_q))
    for each in ((log_p, log_q, f, g), *own):
        assert float(marginal_error(*each, scaled).max()) < 1e-11
    return epsilon * first_variation(given, *exact[:4])


def solved(given: Problem, epsilon: float, dtype: torch.dtype = torch.float32) -> Potentials:
    costs = (given.costs / epsilon).to(dtype).expand(POSITIONS, -1, -1).clone()
    return solve(given.log_p.to(dtype), given.log_q.to(dtype), costs, 200, TOL)


@pytest.mark.parametrize("epsilon", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
def test_divergence_and_penalty_at_the_default_tolerance(noise, epsilon):
    given = problem(noise)
    found = solved(given, epsilon)
    assert found.converged.all()
    potentials = (each.double() for each in found[:4])
    phi, p = epsilon * first_variation(given, *potentials), given.log_p.exp()
    exact = truth(given, epsilon)
    divergence, expected = (p * phi).sum(1), (p * exact).sum(1)
    # Not cut off at 0 here: it is the potentials that must be right.
    assert (divergence > 0).all()
    rounding = 3e-7
    assert ((divergence - expected).abs() <= 0.02 * expected + rounding).all()
    error = (p * (phi - exact) ** 2).sum(1).sqrt() / (p * exact**2).sum(1).sqrt()
    assert float(error.mean()) < 0.03


@pytest.mark.parametrize("epsilon", [0.05, 0.2])
def test_a_policy_within_the_tolerance_of_its_reference_has_a_penalty(epsilon):
    given = problem(1e-3)
    distance = (given.log_p.exp() - given.log_q.exp()).abs().sum(1)
    assert (distance < TOL).all()
    found = solved(given, epsilon, torch.float64)
    phi = epsilon * first_variation(given, *found[:4])
    exact, p = truth(given, epsilon), given.log_p.exp()
    error = (p * (phi - exact) ** 2).sum(1).sqrt() / (p * exact**2).sum(1).sqrt()
    assert float(error.max()) < 0.05


def test_rounding_makes_no_divergence_negative_and_the_mean_of_phi_stays_the_divergence(rng):
    points = torch.randn(30, 8, generator=rng)
    reference = torch.randn(200, 30, generator=rng)
    policy = reference + 1e-4 * torch.randn(200, 30, generator=rng)
    regularizer = SinkhornDivergence(points, 30, 0.2)
    tokens = [regularizer(policy, reference, torch.full((200,), a)).token for a in range(30)]
    divergence = regularizer(policy, reference, torch.zeros(200, dtype=torch.int64)).divergence
    assert (divergence >= 0).all()
    mean = (policy.softmax(1) * torch.stack(tokens, 1)).sum(1)
    torch.testing.assert_close(mean, divergence, rtol=1e-5, atol=1e-8)


def test_a_position_has_converged_only_when_all_three_problems_have():
    given, found = problem(1.0), 0
    scaled = given.costs / 0.2
    for max_iter in range(1, 9):
        few = solve(*given[:2], scaled.expand(POSITIONS, -1, -1).clone(), max_iter, TOL)
        for log_mass, own in ((given.log_p, few.self_policy), (given.log_q, few.self_reference)):
            error = marginal_error(log_mass, log_mass, own, own, scaled)
            # Both marginals; the shift to mass 1 moves the error by no more than itself.
            assert not few.converged[error > 2 * TOL].any()
        found += int(((few.marginal_error <= TOL) & ~few.converged).sum())
    assert found  # the cross problem was solved, and one of the others was not


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
def test_plans_agree_with_pot(epsilon):
    ot = pytest.importorskip("ot", reason="POT is not installed")
    given = problem(1.0)
    found = solved(given, epsilon, torch.float64)
    for n in range(3):
        p, q = given.log_p[n].exp(), given.log_q[n].exp()
        reg = {"reg": epsilon, "stopThr": 1e-12, "numItermax": 100_000, "method": "sinkhorn_log"}
        expected = torch.as_tensor(ot.sinkhorn(p.numpy(), q.numpy(), given.costs.numpy(), **reg))
        rows = given.log_p[n] + found.cross_policy[n]
        columns = given.log_q[n] + found.cross_reference[n]
        plan = torch.exp(rows.unsqueeze(1) + columns - given.costs / epsilon)
        assert float((plan - expected).abs().sum()) < 2 * TOL


def test_divergences_agree_with_geomloss():
    geomloss = pytest.importorskip("geomloss", reason="geomloss is not installed")
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(1, BINS, 16, generator=generator, dtype=torch.float64)
    unit = float(torch.cdist(points, points).sum()) / (BINS * (BINS - 1))
    given, epsilon = problem(1.0), 0.2
    # Its blur is the epsilon of a cost |x - y|, p = 1.
    loss = geomloss.SamplesLoss(
        "sinkhorn", p=1, blur=epsilon, scaling=0.99, backend="tensorized", debias=True
    )
    found = solved(given, epsilon, torch.float64)
    phi = epsilon * first_variation(given, *found[:4])
    for n in range(3):
        p, q = given.log_p[n : n + 1].exp(), given.log_q[n : n + 1].exp()
        expected = float(loss(p, points / unit, q, points / unit))
        # It stops after one pass over a schedule of epsilon, half a percent from the solution.
        assert float((p[0] * phi[n]).sum()) == pytest.approx(expected, rel=0.01)
