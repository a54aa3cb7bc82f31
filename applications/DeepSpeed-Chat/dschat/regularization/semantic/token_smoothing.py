"""Spreading the mass of every token over its nearest tokens: a sparse row-stochastic matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

LEAST_SCORE = -24.0
"""Neighbours of a weight below exp(-24) = 4e-11 of the token's own get none."""
LEAST_SUM = 1e-30
"""Smoothed masses below this are summed again on a scale of their own: float32 ends at 1e-38."""
LARGEST_EXPONENT = 80.0


class TokenSmoothing:
    """S [V, V], S_ab the share of token a's mass that goes to token b; rows have sum 1.

    Row a is the softmax of minus the costs over a's k nearest tokens, itself included, so that its
    own share is the largest.

    Args:
        neighbours: [V, k - 1] int, the nearest other tokens of each.
        scores: [V, k - 1] float, minus their costs over the temperature, at most 0.
        vocabulary: cuts V; what would go to tokens beyond is kept by the row's others.
    """

    def __init__(self, neighbours: Tensor, scores: Tensor, vocabulary: int) -> None:
        neighbours, scores = neighbours[:vocabulary].long(), scores[:vocabulary].float()
        own = torch.arange(vocabulary, device=neighbours.device).unsqueeze(1)
        self._scores = torch.cat([torch.zeros_like(own, dtype=torch.float32), scores], dim=1)
        tokens = torch.cat([own, neighbours], dim=1)
        kept = (self._scores >= LEAST_SCORE) & (tokens < vocabulary)
        self._scores.masked_fill_(~kept, -torch.inf)
        self.tokens = torch.where(kept, tokens, own)
        self.vocabulary = vocabulary
        # Where a sum is below LEAST_SUM, so is each term, and its mass before smoothing is below
        # exp(-BAND): a weight is at least exp(LEAST_SCORE) / k.
        self._band = -math.log(LEAST_SUM) + LEAST_SCORE - math.log(tokens.shape[1])
        # Columns of S as rows: the product is a weighted sum of rows of the masses.
        places = kept.flatten().nonzero().squeeze(1)
        order = places[tokens.flatten()[places].argsort(stable=True)]
        self._order = order
        self._sources = (order // tokens.shape[1]).int()
        counts = tokens.flatten()[places].bincount(minlength=vocabulary)
        self._offsets = (counts.cumsum(0) - counts).int()
        self._weights: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def weights(self, dtype: torch.dtype) -> Tensor:
        """[V, k] shares of the tokens in `tokens` [V, k]; those that get none have 0."""
        return self._of_dtype(dtype)[0]

    def product(self, masses: Tensor) -> Tensor:
        """S^T masses, [V, n] of masses [V, n]."""
        return embedding_bag(
            self._sources,
            masses.contiguous(),
            self._offsets,
            mode="sum",
            per_sample_weights=self._of_dtype(masses.dtype)[1],
        )

    def log_product(self, log_masses: Tensor) -> Tensor:
        """log(S^T exp(log_masses)), [V, n] of finite log-masses [V, n], each column of its own.

        A sum that float32 would lose is taken again after its column has been raised, as often as
        masses go on below: distributions of a language model at a temperature of 1 need no second
        sum, those that are all but one-hot do.
        """
        found = self.product(log_masses.exp())
        missing, result = found < LEAST_SUM, found.log_()
        raised = log_masses.new_zeros(log_masses.shape[1])
        while bool(missing.any()):
            columns = missing.any(0).nonzero().squeeze(1)
            part = log_masses[:, columns]
            # The terms of the missing sums are among these.
            light = part < -(raised[columns] + self._band)
            raised[columns] = -part.masked_fill(~light, -torch.inf).amax(0)
            found = self.product((part + raised[columns]).clamp_(max=LARGEST_EXPONENT).exp_())
            now = missing[:, columns] & (found >= LEAST_SUM)
            result[:, columns] = torch.where(
                now, found.log_() - raised[columns], result[:, columns]
            )
            missing[:, columns] &= ~now
        return result

    def _of_dtype(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if dtype not in self._weights:
            weights = self._scores.to(dtype).softmax(1)
            self._weights[dtype] = weights, weights.flatten()[self._order]
        return self._weights[dtype]
