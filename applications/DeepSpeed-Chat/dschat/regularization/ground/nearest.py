"""The nearest other tokens of some tokens, by brute force in blocks of rows."""

from __future__ import annotations

import torch
from torch import Tensor

SPARE_CANDIDATES = 32
"""Neighbours looked at beyond k: rounding of the matrix product may misplace the last few."""
COLUMN_GROUPS = 16
SCORES_PER_BLOCK = 2**25
CANDIDATES = 4
NO_DISTANCE = 1e-6
"""Tokens nearer than this share of their norms have the same embedding."""
PAIRS_PER_PART = 2**11
"""Differences of pairs held at once: what stays in a CPU's cache. On a GPU 64 times as many."""


def nearest_of(points: Tensor, norms: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Ids [n, k] int32 and squared distances [n, k] of the k nearest other tokens, nearest first.

    One matrix product finds candidates; their distances are then taken from the differences, so
    that a row does not depend on the rows beside it, and equal ones are in the order of ids.

    Args:
        points: [V, P] float32, see `token_points`. norms: [V], squared.
        rows: [n] int64, tokens. k: at most V - 1.
    """
    vocabulary = len(points)
    padded = vocabulary + -vocabulary % COLUMN_GROUPS
    scores = torch.empty(len(rows), padded, device=points.device)
    # |y|^2 - 2 x.y orders the tokens y as |x - y|^2 does.
    torch.addmm(norms, points[rows], points.T, alpha=-2, out=scores[:, :vocabulary])
    scores[:, vocabulary:] = torch.inf
    scores[torch.arange(len(rows), device=rows.device), rows] = torch.inf
    candidates = _smallest(scores, min(k + SPARE_CANDIDATES, vocabulary - 1)).sort(dim=1).values
    squared = _squared_distances(points, rows, candidates)
    squared, order = squared.sort(dim=1, stable=True)
    ids = candidates.gather(1, order)[:, :k]
    return ids.int(), squared[:, :k]


def nearest_differing(points: Tensor, norms: Tensor, used: Tensor, tokens: Tensor) -> Tensor:
    """[n], squared distance from each token to the nearest used one that differs from it.

    Args:
        points: [V, P], see `token_points`. norms: [V], squared.
        used: [V] bool, see `used_tokens`. tokens: [n] int64, used ones.
    """
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
    return torch.cat(found)


def _smallest(scores: Tensor, k: int) -> Tensor:
    """Columns [B, k] of the k smallest entries per row of [B, W], W a multiple of 16.

    The k smallest lie in the k groups of columns with the smallest minima, which saves most of
    the selection when k is far below W.
    """
    width = scores.shape[1] // COLUMN_GROUPS
    if k >= width:
        return scores.topk(k, dim=1, largest=False, sorted=False).indices
    groups = scores.view(-1, COLUMN_GROUPS, width).amin(1)
    chosen = groups.topk(k, dim=1, largest=False, sorted=False).indices
    offsets = torch.arange(COLUMN_GROUPS, device=scores.device) * width
    columns = (chosen[:, None, :] + offsets[:, None]).flatten(1)
    order = scores.gather(1, columns).topk(k, dim=1, largest=False, sorted=False).indices
    return columns.gather(1, order)


def _squared_distances(points: Tensor, rows: Tensor, candidates: Tensor) -> Tensor:
    """[n, C] between tokens [n] and their candidates [n, C], from differences."""
    pairs = PAIRS_PER_PART * (64 if points.is_cuda else 1)
    per_part = max(1, pairs // candidates.shape[1])
    squared = torch.empty(candidates.shape, device=points.device)
    for start in range(0, len(rows), per_part):
        part = slice(start, start + per_part)
        difference = points[candidates[part]]
        difference -= points[rows[part]].unsqueeze(1)
        torch.sum(difference.square_(), 2, out=squared[part])
    return squared
