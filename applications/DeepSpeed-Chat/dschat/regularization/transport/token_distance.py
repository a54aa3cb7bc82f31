"""Distances between the tokens of a position, in units of the mean distance of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from dschat.regularization.transport.token_points import COST_TYPES, token_points
from dschat.regularization.transport.used_tokens import median_nearest_cost, used_tokens

SAMPLED_TOKENS = 1024
SAMPLE_SEED = 0
ROWS_PER_BLOCK = 4096


class TokenDistance:
    """Cost blocks over tokens and one tail bin that stands for all other tokens.

    Costs are divided by the mean distance of random pairs of tokens in use (`used_tokens`), so that
    1 means the same for every model. The tail has cost 0 to itself and, to a token, the mean
    distance from that token to a fixed random sample of tokens. Such costs are conditionally
    negative definite, as the distances themselves are, which keeps a Sinkhorn divergence above 0.

    Args:
        embeddings: [V, D] floating point, finite; float64 stays, all else becomes float32.
        cost_type: ``L2`` for the Euclidean distance, ``cos`` for 1 - cosine.

    Attributes:
        mean: mean distance of random pairs of tokens, in the unit of the embeddings.
        nearest: median distance of a token from its nearest other token, in units of the mean.

    Raises:
        ValueError: on embeddings that give no distances.
    """

    def __init__(self, embeddings: Tensor, cost_type: str = "L2") -> None:
        if cost_type not in COST_TYPES:
            raise ValueError(
                f"given cost type {cost_type!r}, expected one of {', '.join(COST_TYPES)}"
            )
        if embeddings.dim() != 2 or len(embeddings) < 2 or not embeddings.is_floating_point():
            raise ValueError(
                f"given embeddings {tuple(embeddings.shape)} of {embeddings.dtype}, expected a "
                "floating-point matrix [V, D] with V >= 2: pass the input embedding weight"
            )
        self._points, self._norms = token_points(embeddings, cost_type)
        self._is_cos = cost_type == "cos"
        used = used_tokens(embeddings)
        vocabulary, in_use = len(used), int(used.sum())
        generator = torch.Generator().manual_seed(SAMPLE_SEED)
        order = torch.randperm(vocabulary, generator=generator).to(used.device)
        sample = order[used[order]][:SAMPLED_TOKENS]
        tokens = torch.arange(vocabulary, device=used.device)
        means = [self._between(ids, sample).mean(-1) for ids in tokens.split(ROWS_PER_BLOCK)]
        tail = torch.cat(means)
        # The sample meets itself at distance 0: leave those pairs out of the mean.
        pairs = in_use * len(sample) - len(sample)
        self.mean = float(tail[used].double().sum()) * len(sample) / pairs
        if not 0 < self.mean < float("inf"):
            raise ValueError(
                f"given embeddings with mean distance {self.mean}, expected a finite one above 0: "
                "the model folder is damaged or its embedding was not gathered"
            )
        self._tail = tail / self.mean
        self.nearest = median_nearest_cost(embeddings, cost_type) / self.mean

    def __len__(self) -> int:
        return len(self._points)

    @property
    def dimension(self) -> int:
        """Length of the vectors between which distances are taken."""
        return self._points.shape[1]

    def block(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """Costs [B, S, S] between the tokens [B, S - 1] of each position and, last, the tail."""
        between = self._between(tokens, tokens) / self.mean
        costs = between.new_zeros(len(tokens), tokens.shape[1] + 1, tokens.shape[1] + 1)
        costs[:, :-1, :-1] = between
        costs[:, :-1, -1] = costs[:, -1, :-1] = self._tail[tokens]
        return costs.to(dtype)

    def _between(self, left: Tensor, right: Tensor) -> Tensor:
        """Distances [..., n, m] between tokens [..., n] and [..., m]."""
        points = self._points[left]
        products = points @ (points if right is left else self._points[right]).mT
        norms = self._norms[left].unsqueeze(-1) + self._norms[right].unsqueeze(-2)
        squared = torch.add(norms, products, alpha=-2).clamp_(min=0)
        squared = squared.masked_fill_(left.unsqueeze(-1) == right.unsqueeze(-2), 0.0)
        return squared / 2 if self._is_cos else squared.sqrt()
