"""Sinkhorn iteration for the three transport problems of a Sinkhorn divergence.

Everything is in units of epsilon: ``costs`` are C / epsilon and potentials f / epsilon. The optimal
potentials of min <P, C> + epsilon KL(P || p x q) satisfy, with X_i = log sum_{j != i} exp(log q_j +
g_j - C_ij) and Y_i = log sum_{j != i} exp(log p_j + f_j - C_ij), in every bin i

    exp(f_i) (q_i exp(g_i) + exp(X_i)) = 1    and    exp(g_i) (p_i exp(f_i) + exp(Y_i)) = 1.

Sinkhorn's iteration solves the first for f given g, then the second for g given f (Feydy et al.,
"Interpolating between Optimal Transport and MMD using Sinkhorn Divergences", AISTATS 2019). Where
tokens lie many epsilon apart, the terms of the diagonal dominate both, f and g only pass the
log-ratio of p and q back and forth, and hundreds of updates are needed, the more the nearer p is to
q. Here both equations of a bin are solved at once for (f_i, g_i) given X_i and Y_i, which is a
quadratic equation, with X and Y renewed in turn. The solution is the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dschat.regularization.transport.sinkhorn_kernels import Kernel, LogSums, fitting_kernel

LARGEST_EXPONENT = 50.0
SMALLEST_LOG_MASS = -80.0
"""Log-masses below this count as this: the masses are as good as 0, and all stays finite."""
SYMMETRIC_STEP = 0.75
NEAR = 0.1
"""Distributions nearer than this (L1) are solved to a tolerance in proportion to their distance."""
ROUNDINGS = 256
"""The least tolerance, in units of the dtype's rounding."""
LEAST_EXCESS = -1 + 1e-6
"""A plan's mass minus 1 below this counts as this, so that its logarithm stays finite."""
LOG_2 = 0.6931471805599453


class Potentials(NamedTuple):
    """Potentials (over epsilon) of the three problems for B positions with S bins.

    Attributes:
        cross_policy, cross_reference: [B, S], f and g of the problem (policy, reference).
        self_policy, self_reference: [B, S], of the problems of each distribution with itself.
        marginal_error: [B], L1 marginal error of the cross problem's plan before its shift.
        converged: [B] bool, whether all three problems met the tolerance.
        iterations: [B] int64, updates of the cross problem.
    """

    cross_policy: Tensor
    cross_reference: Tensor
    self_policy: Tensor
    self_reference: Tensor
    marginal_error: Tensor
    converged: Tensor
    iterations: Tensor


Solver = Callable[[Tensor, Tensor, Tensor, int, float], Potentials]
"""(log_policy, log_reference, costs, max_iter, tol) -> potentials, as ``solve`` does."""


def solve(
    log_policy: Tensor,
    log_reference: Tensor,
    costs: Tensor,
    max_iter: int,
    tol: float,
    kernel: Kernel = fitting_kernel,
) -> Potentials:
    """Solve (policy, policy), (reference, reference) and, from their solutions, the cross problem.

    Started there, the cross problem of identical distributions has the marginal error of the self
    problems and stops at once, whatever ``max_iter``: their divergence is exactly 0.

    The potentials are shifted so that each plan has mass 1. An unfinished plan has not, and the
    value of its potentials, <p, f> + <q, g>, is then off by its log-mass: by more than the whole
    divergence where the distributions are near. What is left is of second order in the error.

    Args:
        log_policy, log_reference: [B, S], -inf at empty bins.
        costs: [B, S, S] or, alike for all positions, [1, S, S]; symmetric, over epsilon; its
            diagonal is 0 whatever it holds, and is overwritten.
        max_iter: updates at most, of each problem.
        tol: L1 marginal error of a cross problem that counts as solved, twice that of a self
            problem; near distributions are solved further, see `_aims`.
        kernel: what sums over the costs.
    """
    log_policy = log_policy.clamp(min=SMALLEST_LOG_MASS)
    log_reference = log_reference.clamp(min=SMALLEST_LOG_MASS)
    costs.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    log_sums = kernel(costs)
    aim = _aims(log_policy, log_reference, tol)
    of_policy, policy_error, policy_mass = _solve_symmetric(log_policy, log_sums, max_iter, aim / 2)
    of_reference, reference_error, reference_mass = _solve_symmetric(
        log_reference, log_sums, max_iter, aim / 2
    )
    # More precision than the self problems have would be lost in the difference.
    threshold = torch.maximum(policy_error + reference_error, aim)
    f, g, error, mass, iterations = _solve_cross(
        (log_policy, log_reference),
        (of_policy, of_reference),
        log_sums,
        threshold,
        max_iter,
    )
    # Half of it from either side, as from a self problem: for equal distributions all cancel.
    half = (mass / 2).unsqueeze(1)
    converged = (error <= tol) & (policy_error <= tol / 2) & (reference_error <= tol / 2)
    return Potentials(
        f - half,
        g - half,
        of_policy - (policy_mass / 2).unsqueeze(1),
        of_reference - (reference_mass / 2).unsqueeze(1),
        error,
        converged,
        iterations,
    )


def _aims(log_policy: Tensor, log_reference: Tensor, tol: float) -> Tensor:
    """Marginal error [B] to solve to: ``tol``, and less where the distributions are near.

    What moves between near distributions is itself less than ``tol``: at one tolerance for all
    they would count as equal, and their penalty as 0.
    """
    least = min(tol, ROUNDINGS * torch.finfo(log_policy.dtype).eps)
    distance = (log_policy.exp() - log_reference.exp()).abs().sum(1)
    return (tol / NEAR * distance).clamp(min=least, max=tol)


def _solve_cross(
    log_masses: tuple[Tensor, Tensor],
    potentials: tuple[Tensor, Tensor],
    log_sums: LogSums,
    threshold: Tensor,
    max_iter: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """f, g, marginal error, log-mass and updates of the cross problem, from given potentials.

    Positions that are done stay as they are until they are the half; then the others go on alone.
    """
    log_policy, log_reference = log_masses
    f, g = potentials
    x, y = log_sums(log_reference + g), log_sums(log_policy + f)
    policy, reference = log_policy.exp(), log_reference.exp()
    error, mass = _error(policy, f, log_reference + g, x)
    error = error + _error(reference, g, log_policy + f, y)[0]
    done = error <= threshold
    iterations = torch.zeros(len(f), dtype=torch.int64, device=f.device)
    for update in range(max_iter):
        running = (~done).nonzero().squeeze(1)
        if not len(running):
            break
        if update and 2 * len(running) <= len(done):
            others = _solve_cross(
                (log_policy[running], log_reference[running]),
                (f[running], g[running]),
                log_sums.at(running),
                threshold[running],
                max_iter - update,
            )
            f[running], g[running], error[running], mass[running] = others[:4]
            iterations[running] += others[4]
            break
        active = ~done.unsqueeze(1)
        iterations += ~done
        new_f, _ = _solve_bins(log_policy, log_reference, x, y)
        y = torch.where(active, log_sums(log_policy + new_f), y)
        new_f, new_g = _solve_bins(log_policy, log_reference, x, y)
        # A position that is done is left as it is: it must not depend on the others.
        f, g = torch.where(active, new_f, f), torch.where(active, new_g, g)
        x = torch.where(active, log_sums(log_reference + g), x)
        y = torch.where(active, log_sums(log_policy + f), y)
        error, mass = _error(policy, f, log_reference + g, x)
        error = error + _error(reference, g, log_policy + f, y)[0]
        done = done | (error <= threshold)
    return f, g, error, mass, iterations


def _solve_bins(log_p: Tensor, log_q: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(f, g) that satisfy both equations of every bin, all [B, S].

    With s = exp(f + g) and m = exp(x + y): (1 - q s)(1 - p s) = m s, f = log(1 - q s) - x and
    g = log(1 - p s) - y. In logs and without cancellation, since at small epsilon m underflows.
    """
    log_m = x + y
    log_sum = torch.logaddexp(log_p, log_q)
    low, high = torch.minimum(log_p, log_q), torch.maximum(log_p, log_q)
    log_difference = high + torch.log(-torch.expm1(low - high))
    log_root = torch.logaddexp(2 * log_m, log_m + LOG_2 + log_sum)
    log_root = torch.logaddexp(log_root, 2 * log_difference) / 2
    log_m_root = torch.logaddexp(log_m, log_root)
    log_denominator = torch.logaddexp(log_sum, log_m_root)
    # 1 - s times the smaller mass; the other factor follows from the product.
    log_larger = torch.logaddexp(log_difference, log_m_root) - log_denominator
    log_smaller = log_m + LOG_2 - log_denominator - log_larger
    policy_has_more = log_p > log_q
    f = torch.where(policy_has_more, log_larger, log_smaller) - x
    g = torch.where(policy_has_more, log_smaller, log_larger) - y
    return f, g


def _solve_symmetric(
    log_mass: Tensor, log_sums: LogSums, max_iter: int, tol: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Potential [B, S] of a distribution's problem with itself, marginal error and log-mass [B]."""
    mass = log_mass.exp()
    shares = mass / mass.sum(1, keepdim=True)
    f = _solve_own_bins(log_mass, log_sums(log_mass))
    for update in range(max_iter + 1):
        x = log_sums(log_mass + f)
        error, plan_mass = _error(mass, f, log_mass + f, x)
        done = error <= tol
        if update == max_iter or bool(done.all()):
            break
        change = _solve_own_bins(log_mass, x) - f
        # Undamped, the mean would overshoot by turns for ever; the rest does so among tokens that
        # lie far from all others.
        mean_change = (shares * change).sum(1, keepdim=True)
        step = SYMMETRIC_STEP * (change - mean_change) + mean_change / 2
        f = torch.where(done.unsqueeze(1), f, f + step)
    return f, error, plan_mass


def _solve_own_bins(log_mass: Tensor, x: Tensor) -> Tensor:
    """f that satisfies exp(f) (p exp(f) + exp(x)) = 1 in every bin, all [B, S]."""
    return LOG_2 - torch.logaddexp(x, torch.logaddexp(2 * x, 2 * LOG_2 + log_mass) / 2)


def _error(mass: Tensor, potential: Tensor, weights: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """L1 distance [B] of a marginal of the plan from what it should be, and the plan's log-mass."""
    excess = (potential + torch.logaddexp(weights, sums)).clamp_(max=LARGEST_EXPONENT)
    excess = excess.expm1_().mul_(mass)
    return excess.abs().sum(1), torch.log1p(excess.sum(1).clamp(min=LEAST_EXCESS))
