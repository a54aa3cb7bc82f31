"""Log-domain Sinkhorn iteration for the three transport problems of a Sinkhorn divergence.

Everything is in units of epsilon: ``costs`` are C / epsilon and potentials f / epsilon. With the
softmin T_q g = -log sum_j exp(log q_j + g_j - C_ij), the optimal potentials of (p, q) satisfy
f = T_q g and g = T_p f. Source: Feydy et al., "Interpolating between Optimal Transport and MMD
using Sinkhorn Divergences", AISTATS 2019. The softmin is an argument: a faster one is a drop-in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

SoftMin = Callable[[Tensor, Tensor], Tensor]
"""(costs [B, S, S] symmetric, weights [B, S] = log q + g) -> T_q g [B, S]."""

LARGEST_EXPONENT = 50.0


def torch_softmin(costs: Tensor, weights: Tensor) -> Tensor:
    """The softmin in plain torch; builds one [B, S, S] tensor."""
    return -torch.logsumexp(weights.unsqueeze(1) - costs, dim=2)


class Potentials(NamedTuple):
    """Potentials (over epsilon) of the three problems for B positions with S bins.

    Attributes:
        cross_policy, cross_reference: [B, S], f and g of the problem (policy, reference).
        self_policy, self_reference: [B, S], of the problems of each distribution with itself.
        marginal_error: [B], L1 marginal error of the cross problem's plan.
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


def solve(
    log_policy: Tensor,
    log_reference: Tensor,
    costs: Tensor,
    max_iter: int,
    tol: float,
    softmin: SoftMin = torch_softmin,
) -> Potentials:
    """Solve (policy, policy), (reference, reference) and, from their solutions, the cross problem.

    Started there, the cross problem of identical distributions has the marginal error of the self
    problems and stops at once, whatever ``max_iter``: their divergence is exactly 0.

    Args:
        log_policy, log_reference: [B, S], -inf at empty bins.
        costs: [B, S, S], symmetric, over epsilon.
        max_iter: updates at most, of each problem.
        tol: L1 marginal error that counts as solved.
        softmin: the kernel that computes T.
    """
    self_policy, policy_error = _solve_symmetric(log_policy, costs, max_iter, tol / 2, softmin)
    self_reference, reference_error = _solve_symmetric(
        log_reference, costs, max_iter, tol / 2, softmin
    )
    # More precision than the self problems have would be lost in the difference.
    threshold = (policy_error + reference_error).clamp(min=tol)
    f, g = self_policy, self_reference
    column_error = _marginal_error(log_reference, g, softmin(costs, log_policy + f))
    iterations = torch.zeros(len(f), dtype=torch.int64, device=f.device)
    done = torch.zeros(len(f), dtype=torch.bool, device=f.device)
    for update in range(max_iter + 1):
        new_f = softmin(costs, log_reference + g)
        error = _marginal_error(log_policy, f, new_f) + column_error
        done = done | (error <= threshold)
        if update == max_iter or bool(done.all()):
            break
        # A position that is done is left as it is: it must not depend on the others.
        f = torch.where(done.unsqueeze(1), f, new_f)
        new_g = softmin(costs, log_policy + f)
        g = torch.where(done.unsqueeze(1), g, new_g)
        # An updated g meets its marginal exactly.
        column_error = torch.where(done, column_error, torch.zeros_like(column_error))
        iterations += ~done
    return Potentials(f, g, self_policy, self_reference, error, error <= tol, iterations)


def _solve_symmetric(
    log_mass: Tensor, costs: Tensor, max_iter: int, tol: float, softmin: SoftMin
) -> tuple[Tensor, Tensor]:
    """Potential [B, S] of the problem of a distribution with itself, and its marginal error [B]."""
    f = torch.zeros_like(log_mass)
    for update in range(max_iter + 1):
        new_f = softmin(costs, log_mass + f)
        error = _marginal_error(log_mass, f, new_f)
        done = error <= tol
        if update == max_iter or bool(done.all()):
            break
        # The averaged update converges in a few steps where the plain one oscillates.
        f = torch.where(done.unsqueeze(1), f, (f + new_f) / 2)
    return f, error


def _marginal_error(log_mass: Tensor, potential: Tensor, updated: Tensor) -> Tensor:
    """L1 distance [B] of a marginal of the plan from what it should be.

    Row i of the plan sums to p_i exp(f_i - T f_i).
    """
    excess = torch.expm1((potential - updated).clamp(max=LARGEST_EXPONENT))
    return (log_mass.exp() * excess.abs()).sum(1)
