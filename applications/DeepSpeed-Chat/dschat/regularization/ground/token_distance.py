"""Costs between the tokens of a position and their tail, in units of the mean cost of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from dschat.regularization.ground.metric import GroundMetric


class TokenDistance:
    """Cost blocks over tokens and one tail bin that stands for all other tokens.

    Costs are divided by the mean cost of random pairs of tokens in use, so that 1 means the same
    for every model and metric. The tail has cost 0 to itself and, to a token, the mean cost from
    that token to a fixed random sample of tokens. Such costs are conditionally negative definite,
    as the metric's own are, which keeps a Sinkhorn divergence above 0: these are squared distances
    |x_i - x_j|^2 of some points (Schoenberg), and the mean of |x_i - x_s|^2 over a sample s is
    |x_i - c|^2 + r, c the sample's centre: the squared distance from a point at the centre, away
    from all others along an axis of its own.

    Args:
        metric: of the tokens.

    Attributes:
        mean: mean cost of random pairs of tokens, in the unit of the metric.
        nearest: median cost of a token to its nearest other token, in units of the mean.

    Raises:
        ValueError: where the mean cost is 0 or not finite.
    """

    def __init__(self, metric: GroundMetric) -> None:
        self.metric, self.mean = metric, metric.mean
        self._tail = metric.to_sample / metric.mean
        self.nearest = metric.nearest / metric.mean

    def __len__(self) -> int:
        return len(self.metric)

    @property
    def dimension(self) -> int:
        """Length of the vectors between which distances are taken."""
        return self.metric.dimension

    def block(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """Costs [B, S, S] between the tokens [B, S - 1] of each position and, last, the tail."""
        between = self.metric.cost(tokens, tokens) / self.mean
        costs = between.new_zeros(len(tokens), tokens.shape[1] + 1, tokens.shape[1] + 1)
        costs[:, :-1, :-1] = between
        costs[:, :-1, -1] = costs[:, -1, :-1] = self._tail[tokens]
        return costs.to(dtype)
