"""The scaling iteration of the published truncated transport, for any kernel operator."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dschat.regularization.kernel_operators import KernelOperator

STABILISER = 1e-16
"""Added to every denominator, as published: it is what the iteration does at empty entries."""


class Scaling(NamedTuple):
    """Last iterate for N positions: the plan of position n is diag(u_n) K diag(v_n).

    Attributes:
        u, v: [S, N].
        iterations: [N] int64, iterations used.
        converged: [N] bool, whether the change of u fell to the tolerance.
    """

    u: Tensor
    v: Tensor
    iterations: Tensor
    converged: Tensor


def scale(
    operator: KernelOperator, policy: Tensor, reference: Tensor, max_iter: int, tol: float
) -> Scaling:
    """Iterate u <- policy / (K v + 1e-16), v <- reference / (K^T u + 1e-16) from u = v = 1.

    A position whose largest absolute change of u is at most ``tol`` keeps that u and v and leaves
    the loop. The positions do not influence each other. Source: Na et al., ICLR 2026, arXiv
    2602.01685.

    Args:
        operator: the kernel on S bins.
        policy, reference: [S, N], distributions over the bins, one column per position.
        max_iter: at most this many iterations, at least 1.
        tol: largest change of u that counts as converged.
    """
    n = policy.shape[1]
    active = torch.arange(n, device=policy.device)
    final_u, final_v = torch.empty_like(policy), torch.empty_like(reference)
    iterations = torch.full((n,), max_iter, device=policy.device)
    converged = torch.zeros(n, dtype=torch.bool, device=policy.device)
    u = torch.ones_like(policy)
    # All columns of v = 1 have the same product.
    product = operator.matvec(u[:, :1])
    for iteration in range(1, max_iter + 1):
        previous, u = u, policy / (product + STABILISER)
        v = reference / (operator.transpose_matvec(u) + STABILISER)
        done = (u - previous).abs().amax(0) <= tol
        if bool(done.any()):
            leaving = active[done]
            final_u[:, leaving], final_v[:, leaving] = u[:, done], v[:, done]
            iterations[leaving], converged[leaving] = iteration, True
            active, policy, reference = active[~done], policy[:, ~done], reference[:, ~done]
            u, v = u[:, ~done], v[:, ~done]
        if iteration == max_iter or not len(active):
            break
        product = operator.matvec(v)
    final_u[:, active], final_v[:, active] = u, v
    return Scaling(final_u, final_v, iterations, converged)


class PlanSummary(NamedTuple):
    """Per position [N]: cost of the plan per unit of its mass, and its marginal error (L1)."""

    cost: Tensor
    marginal_error: Tensor


def summarise_plan(
    operator: KernelOperator, scaling: Scaling, policy: Tensor, reference: Tensor
) -> PlanSummary:
    """<P, C> over the entries of finite cost divided by sum(P), and how far P is from feasible.

    A plan without mass (distributions that share no bin of finite cost) gives cost 0; its marginal
    error, close to 2, tells it apart from a true zero.
    """
    row_sums = scaling.u * operator.matvec(scaling.v)
    column_sums = scaling.v * operator.transpose_matvec(scaling.u)
    cost = (scaling.u * operator.cost_matvec(scaling.v)).sum(0)
    mass = row_sums.sum(0).clamp(min=torch.finfo(policy.dtype).tiny)
    error = (row_sums - policy).abs().sum(0) + (column_sums - reference).abs().sum(0)
    return PlanSummary(cost / mass, error)
