"""Sums over a transport kernel, in the scaling and log domains.

A kernel is made from costs over epsilon, symmetric with an infinite diagonal: [B, S, S], or [1, S,
S] for all positions alike. It maps weights [B, S] to log sum_{j != i} exp(w_j - C_ij), [B, S]. The
diagonal is left to the solver, which treats it exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

SMALLEST_SUM = 1e-30
"""Sums below this have lost, or may have lost, terms to underflow in float32."""
LARGEST_SCALED_COST = 60.0
"""Typical cost over epsilon from which hardly a sum is above ``SMALLEST_SUM``."""


class LogSums(Protocol):
    """weights [B, S] -> log-sums [B, S]."""

    def __call__(self, weights: Tensor) -> Tensor: ...

    def at(self, positions: Tensor) -> LogSums:
        """The same for some of the positions."""
        ...


Kernel = Callable[[Tensor], LogSums]
"""costs -> its log-sums."""


class LogKernel:
    """Exact for all costs; builds one [B, S, S] tensor per call."""

    def __init__(self, costs: Tensor) -> None:
        self.costs = costs

    def __call__(self, weights: Tensor) -> Tensor:
        return torch.logsumexp(weights.unsqueeze(1) - self.costs, dim=2)

    def at(self, positions: Tensor) -> LogKernel:
        """The same for some of the positions."""
        return LogKernel(_at(self.costs, positions))


class ScalingKernel:
    """exp(-C) is kept, and a call is one product with it; sums that underflow are done in logs."""

    def __init__(self, costs: Tensor, kernel: Tensor | None = None) -> None:
        self.costs = costs
        self.kernel = torch.exp(-costs) if kernel is None else kernel

    def __call__(self, weights: Tensor) -> Tensor:
        largest = weights.amax(1, keepdim=True)
        scaled = torch.exp(weights - largest)
        # The kernel is symmetric, and a row vector from the left is much the faster product.
        if len(self.kernel) == 1:
            sums = scaled @ self.kernel[0]
        else:
            sums = torch.bmm(scaled.unsqueeze(1), self.kernel).squeeze(1)
        result = sums.log() + largest
        position, row = (sums < SMALLEST_SUM).nonzero(as_tuple=True)
        if len(row):
            of = position if len(self.costs) > 1 else torch.zeros_like(position)
            result[position, row] = torch.logsumexp(weights[position] - self.costs[of, row], dim=1)
        return result

    def at(self, positions: Tensor) -> ScalingKernel:
        """The same for some of the positions."""
        return ScalingKernel(_at(self.costs, positions), _at(self.kernel, positions))


def _at(blocks: Tensor, positions: Tensor) -> Tensor:
    return blocks if len(blocks) == 1 else blocks[positions]


def fitting_kernel(costs: Tensor) -> LogSums:
    """The scaling kernel where its sums do not all underflow; on a CPU it is 15 times faster."""
    if float(costs[:, 0, 1:].mean()) > LARGEST_SCALED_COST:
        return LogKernel(costs)
    return ScalingKernel(costs)
