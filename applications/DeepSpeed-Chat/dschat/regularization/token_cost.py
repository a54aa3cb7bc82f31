"""Distances between token embeddings: the nearest-token table.

It keeps, for each token, its k nearest other tokens. Built in blocks of rows from one
matrix product each, and kept on disk (see ``table_cache``) under a key of the embedding's content.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dschat.regularization import table_cache
from dschat.regularization.table_cache import NearestTokens
from dschat.regularization.token_points import COST_TYPES, cost_of_squared, token_points

SPARE_CANDIDATES = 32
"""Neighbours looked at beyond k: rounding of the matrix product may misplace the last few."""
CANCELLATION_SHARE = 0.25
"""Squared distances below this share of the two squared norms are recomputed from differences."""
COLUMN_GROUPS = 8


def nearest_tokens(
    embeddings: Tensor,
    k: int,
    cost_type: str = "L2",
    block_size: int = 1024,
    cache_dir: str | Path | None = None,
) -> NearestTokens:
    """Table of the k nearest other tokens of every token (k is cut to V - 1).

    A token is never its own neighbour, even when others have the same embedding; those are
    neighbours at cost 0.

    Args:
        embeddings: [V, D] floating point, finite.
        k: neighbours per token, at least 1.
        cost_type: ``L2`` for the Euclidean distance, ``cos`` for 1 - cosine.
        block_size: rows per block; memory grows as block_size x V, the result does not change.
        cache_dir: folder for the table; None keeps it in memory only. Several ranks should let
            one of them build it first, the others then read it.

    Returns:
        The table on the device of ``embeddings``.

    Raises:
        ValueError: on inputs that have no such table.
    """
    _check_table_inputs(embeddings, k, cost_type, block_size)
    embeddings = embeddings.detach()
    k = min(k, embeddings.shape[0] - 1)
    if cache_dir is None:
        return _build_table(embeddings, k, cost_type, block_size)
    path = table_cache.cache_path(embeddings, k, cost_type, cache_dir)
    table = table_cache.read(path, shape=(embeddings.shape[0], k))
    if table is None:
        table = _build_table(embeddings, k, cost_type, block_size)
        table_cache.write(path, table)
    return table.to(embeddings.device)


def _check_table_inputs(embeddings: Tensor, k: int, cost_type: str, block_size: int) -> None:
    if embeddings.dim() != 2 or embeddings.shape[0] < 2 or not embeddings.is_floating_point():
        raise ValueError(
            f"given embeddings {tuple(embeddings.shape)} of {embeddings.dtype}, expected a "
            "floating-point matrix [V, D] with V >= 2: pass the weight of the input embedding "
            "(gathered, if it is partitioned)"
        )
    if cost_type not in COST_TYPES:
        raise ValueError(f"given cost type {cost_type!r}, expected one of {', '.join(COST_TYPES)}")
    if k < 1 or block_size < 1:
        raise ValueError(f"given k = {k} and block_size = {block_size}, expected both at least 1")
    if not bool(torch.isfinite(embeddings).all()):
        raise ValueError(
            "given embeddings with NaN or infinity, expected finite ones: the model "
            "folder is damaged or its dtype overflowed"
        )


def _build_table(embeddings: Tensor, k: int, cost_type: str, block_size: int) -> NearestTokens:
    points, norms = token_points(embeddings.float(), cost_type)
    vocabulary = len(points)
    padded = vocabulary + -vocabulary % COLUMN_GROUPS
    indices = torch.empty(vocabulary, k, dtype=torch.int32, device=points.device)
    costs = torch.empty(vocabulary, k, dtype=torch.float32, device=points.device)
    buffer = torch.empty(min(block_size, vocabulary), padded, device=points.device)
    for start in range(0, vocabulary, block_size):
        rows = torch.arange(start, min(start + block_size, vocabulary), device=points.device)
        scores = buffer[: len(rows)]
        # |y|^2 - 2 x.y orders the tokens y as |x - y|^2 does.
        torch.addmm(norms, points[rows], points.T, alpha=-2, out=scores[:, :vocabulary])
        scores[:, vocabulary:] = torch.inf
        scores[rows - start, rows] = torch.inf
        candidates, values = _smallest(scores, min(k + SPARE_CANDIDATES, vocabulary - 1))
        squared = _exact_where_close(points, norms, rows, candidates, values + norms[rows, None])
        squared, order = squared.sort(dim=1, stable=True)
        indices[rows] = candidates.gather(1, order)[:, :k].int()
        costs[rows] = cost_of_squared(squared[:, :k], cost_type)
    return NearestTokens(indices, costs)


def _smallest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Columns and values of the k smallest entries per row of [B, W], W a multiple of 8.

    The k smallest lie in the k groups of columns with the smallest minima, which saves most of
    the selection when k is far below W.
    """
    width = scores.shape[1] // COLUMN_GROUPS
    if k >= width:
        values, columns = scores.topk(k, dim=1, largest=False, sorted=False)
        return columns, values
    groups = scores.view(-1, COLUMN_GROUPS, width).amin(1)
    chosen = groups.topk(k, dim=1, largest=False, sorted=False).indices
    offsets = torch.arange(COLUMN_GROUPS, device=scores.device) * width
    columns = (chosen[:, None, :] + offsets[:, None]).flatten(1)
    values, order = scores.gather(1, columns).topk(k, dim=1, largest=False, sorted=False)
    return columns.gather(1, order), values


def _exact_where_close(
    points: Tensor, norms: Tensor, rows: Tensor, candidates: Tensor, squared: Tensor
) -> Tensor:
    """Squared distances [B, C] with those small against the norms recomputed from differences."""
    close = squared < CANCELLATION_SHARE * (norms[rows, None] + norms[candidates])
    row, column = close.nonzero(as_tuple=True)
    for part in torch.arange(len(row), device=row.device).split(4096):
        difference = points[rows[row[part]]] - points[candidates[row[part], column[part]]]
        squared[row[part], column[part]] = difference.square().sum(1)
    return squared
