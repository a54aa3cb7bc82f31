"""Which rows of an embedding table are tokens in use, and how near their nearest others are.

Vocabularies are padded, and some tokens were never trained: their rows are zero or copies of one
row. They have no mass in any policy, and figures about distances must not count them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dschat.regularization.transport.token_points import cost_of_squared, token_points

SAMPLED_TOKENS = 512
SAMPLE_SEED = 0
ZERO_NORM = 1e-6
"""Rows shorter than this share of the longest one count as zero."""
COPIES = 3
"""So many equal rows are copies of an untrained one; two may be tokens that share their meaning."""
NO_DISTANCE = 1e-6
"""Tokens nearer than this share of their norms have the same embedding."""
CANDIDATES = 4
ROWS_PER_BLOCK = 8192
SCORES_PER_BLOCK = 2**25


def used_tokens(embeddings: Tensor) -> Tensor:
    """[V] bool, False for zero rows and for rows of which there are three or more copies.

    All True where nothing would be left.
    """
    embeddings = embeddings.detach()
    norms = torch.cat([x.float().norm(dim=1) for x in embeddings.split(ROWS_PER_BLOCK)])
    _, group, sizes = torch.unique(_digests(embeddings), return_inverse=True, return_counts=True)
    used = (norms > ZERO_NORM * norms.max()) & (sizes[group] < COPIES)
    return used if int(used.sum()) > 1 else torch.ones_like(used)


def _digests(embeddings: Tensor) -> Tensor:
    """[V] int64, equal for equal rows: integer arithmetic, whose order does not matter."""
    generator = torch.Generator().manual_seed(SAMPLE_SEED)
    width = embeddings.shape[1]
    factors = torch.randint(-(2**62), 2**62, (width,), generator=generator).to(embeddings.device)
    parts = [
        (x.float().contiguous().view(torch.int32).long() * factors).sum(1)
        for x in embeddings.split(ROWS_PER_BLOCK)
    ]
    return torch.cat(parts)


def sample_of_tokens(used: Tensor, size: int = SAMPLED_TOKENS) -> Tensor:
    """[n] int64, ascending: at most `size` of the used tokens, always the same ones."""
    tokens = used.nonzero().squeeze(1)
    generator = torch.Generator().manual_seed(SAMPLE_SEED)
    chosen = torch.randperm(len(tokens), generator=generator)[:size].to(tokens.device)
    return tokens[chosen].sort().values


def nearest_costs(embeddings: Tensor, cost_type: str, used: Tensor, tokens: Tensor) -> Tensor:
    """[n] float32, the cost from each of `tokens` to the nearest used token that differs from it.

    Args:
        embeddings: [V, D] floating point, finite.
        cost_type: ``L2`` for the Euclidean distance, ``cos`` for 1 - cosine.
        used: [V] bool, see `used_tokens`. tokens: [n] int64, used ones.
    """
    points, norms = token_points(embeddings, cost_type)
    found = []
    for rows in tokens.split(max(1, SCORES_PER_BLOCK // len(points))):
        scores = torch.addmm(norms, points[rows], points.T, alpha=-2).masked_fill_(~used, torch.inf)
        scores[torch.arange(len(rows), device=rows.device), rows] = torch.inf
        count = min(CANDIDATES, scores.shape[1])
        nearest = scores.topk(count, dim=1, largest=False).indices
        squared = (points[nearest] - points[rows].unsqueeze(1)).square().sum(2)
        same = squared <= NO_DISTANCE**2 * (norms[nearest] + norms[rows].unsqueeze(1))
        same |= ~used[nearest] | (nearest == rows.unsqueeze(1))
        found.append(squared.masked_fill(same, torch.inf).amin(1))
    return cost_of_squared(torch.cat(found), cost_type)


def median_nearest_cost(embeddings: Tensor, cost_type: str = "L2") -> float:
    """Median over a fixed sample of used tokens of the cost to their nearest other token.

    Args:
        embeddings: [V, D] floating point, finite.
        cost_type: ``L2`` for the Euclidean distance, ``cos`` for 1 - cosine.

    Returns:
        In the unit of the embeddings; 0 where no two tokens differ.
    """
    used = used_tokens(embeddings)
    costs = nearest_costs(embeddings, cost_type, used, sample_of_tokens(used))
    finite = costs[torch.isfinite(costs)]
    return float(finite.median()) if len(finite) else 0.0
