"""The scaling iteration of the published truncated transport, for any symmetric kernel."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dschat.regularization.transport.kernel_operators import KernelOperator

STABILISER = 1e-16
"""Added to every denominator, as published: it is what the iteration does at empty entries."""
PROBED_SHARE = 16


class Scaling(NamedTuple):
    """Last iterate for N positions: the plan of position n is diag(u_n) K diag(v_n).

    Attributes:
        u, v: of the shape of the distributions.
        iterations: [N] int64, iterations used.
        converged: [N] bool, whether the change of u fell to the tolerance.
    """

    u: Tensor
    v: Tensor
    iterations: Tensor
    converged: Tensor

    def store(self, columns: Tensor, leaving: Tensor, u: Tensor, v: Tensor, iteration: int) -> None:
        """Keep the iterates of the positions ``columns[leaving]``, which have converged."""
        to = columns[leaving]
        self.u[:, to], self.v[:, to] = u[:, leaving], v[:, leaving]
        self.iterations[to], self.converged[to] = iteration, True


def scale(
    operator: KernelOperator | None,
    policy: Tensor,
    reference: Tensor,
    max_iter: int,
    tol: float,
) -> Scaling:
    """Iterate u <- policy / (K v + 1e-16), v <- reference / (K u + 1e-16) from u = v = 1.

    A position whose largest absolute change of u is at most ``tol`` keeps that u and v and leaves
    the loop. The positions do not influence each other. Source: Na et al., ICLR 2026, arXiv
    2602.01685.

    Args:
        operator: the symmetric kernel on S bins; None for the identity.
        policy, reference: [S, N], distributions over the bins, one column per position, of any
            strides.
        max_iter: at most this many iterations, at least 1.
        tol: largest change of u that counts as converged.
    """
    n = policy.shape[1]
    outcome = Scaling(
        torch.empty_like(policy),
        torch.empty_like(reference),
        iterations=torch.full((n,), max_iter, device=policy.device),
        converged=torch.zeros(n, dtype=torch.bool, device=policy.device),
    )
    columns, running = torch.arange(n, device=policy.device), ~outcome.converged
    u, spare = torch.ones_like(policy), torch.empty_like(policy)
    # All columns of v = 1 have the same product.
    product = u[:, :1] if operator is None else operator.matvec(u[:, :1])
    denominator = torch.empty_like(policy).copy_(product + STABILISER)
    for iteration in range(1, max_iter + 1):
        previous, u = u, torch.div(policy, denominator, out=spare)
        v = _denominator(operator, u, denominator)
        torch.div(reference, v, out=v)
        leaving = _unchanged(u, previous, tol)
        if leaving is not None and bool((leaving := leaving & running).any()):
            outcome.store(columns, leaving, u, v, iteration)
            running = running & ~leaving
            if not bool(running.any()):
                return outcome
            # Few columns take as long as some: go on with those that left until half have.
            if 2 * int(running.sum()) <= len(running):
                policy, reference, u, v, previous = (
                    x[:, running] for x in (policy, reference, u, v, previous)
                )
                columns, running = columns[running], running[running]
        if iteration < max_iter:
            denominator, spare = _denominator(operator, v, v), previous
    if len(columns) == n and bool(running.all()):
        return outcome._replace(u=u, v=v)
    outcome.u[:, columns[running]], outcome.v[:, columns[running]] = u[:, running], v[:, running]
    return outcome


def _denominator(operator: KernelOperator | None, x: Tensor, spare: Tensor) -> Tensor:
    """K x + 1e-16; written to ``spare`` where K is the identity."""
    if operator is None:
        return torch.add(x, STABILISER, out=spare)
    return operator.matvec(x).add_(STABILISER)


def _unchanged(u: Tensor, previous: Tensor, tol: float) -> Tensor | None:
    """[N] bool, positions none of whose bins changed by more than ``tol``; None if there are none.

    Nearly always all positions changed, and a few of the bins show it.
    """
    probed = max(64, len(u) // PROBED_SHARE)
    if probed < len(u) and u.shape[1]:
        least = (u[:probed] - previous[:probed]).abs_().amax(0).amin()
        if float(least) > tol:
            return None
    return (u - previous).abs_().amax(0) <= tol


class PlanSummary(NamedTuple):
    """Per position [N]: cost of the plan per unit of its mass, and its marginal error (L1)."""

    cost: Tensor
    marginal_error: Tensor


def summarise_plan(
    operator: KernelOperator | None, scaling: Scaling, policy: Tensor, reference: Tensor
) -> PlanSummary:
    """<P, C> over the entries of finite cost divided by sum(P), and how far P is from feasible.

    A plan without mass (distributions that share no bin of finite cost) gives cost 0; its marginal
    error, close to 2, tells it apart from a true zero.
    """
    u, v = scaling.u, scaling.v
    # v (K u + 1e-16) = reference holds exactly after an update of v: the columns miss by v / 1e16.
    column_error = STABILISER * v.sum(0)
    if operator is None:
        row_sums = torch.sub(reference, v, alpha=STABILISER)
        return PlanSummary(
            torch.zeros_like(column_error), row_sums.sub_(policy).abs_().sum(0) + column_error
        )
    row_sums = operator.matvec(v).mul_(u)
    mass = row_sums.sum(0).clamp(min=torch.finfo(policy.dtype).tiny)
    cost = operator.cost_matvec(v).mul_(u).sum(0)
    return PlanSummary(cost / mass, row_sums.sub_(policy).abs_().sum(0) + column_error)
