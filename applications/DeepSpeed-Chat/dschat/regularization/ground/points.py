"""Points whose distances give the costs between tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

COST_TYPES = ("L2", "cos", "cos_centred", "cos_whitened")
ROWS_PER_BLOCK = 8192
LEAST_VARIANCE = 1e-8
"""Directions with less than this share of the largest variance have none but rounding."""


def token_points(embeddings: Tensor, cost_type: str, components: int, used: Tensor) -> Tensor:
    """Points [V, P], float32 (float64 stays), with their mean at the origin.

    Their squared distances are those of the embeddings (``L2``) or twice 1 - cosine: of the
    embeddings (``cos``), of these without their mean and largest principal components
    (``cos_centred``; Mu and Viswanath, "All-but-the-Top", ICLR 2018, arXiv 1702.01417), or of these
    without their mean and with all principal components of the same variance (``cos_whitened``).
    Mean and components are those of the tokens in use, computed in float64.

    Args:
        embeddings: [V, D] floating point, finite.
        cost_type: one of ``COST_TYPES``.
        components: principal components that ``cos_centred`` removes; 0: the mean only.
        used: [V] bool, see `used_tokens`.

    Raises:
        ValueError: where there are too few tokens or dimensions.
    """
    points = embeddings.detach().to(torch.promote_types(embeddings.dtype, torch.float32))
    if cost_type in ("cos_centred", "cos_whitened"):
        mean, variances, directions = _principal_components(points, used)
        if cost_type == "cos_centred":
            points = _without_components(points, mean, directions, components)
        else:
            points = _whitened(points, mean, variances, directions, int(used.sum()))
    if cost_type != "L2":
        points = cos_points(points)
    # Distances do not change with the origin; norms around the centre are small, so that less is
    # lost to cancellation.
    return points - points.mean(0)


def cos_points(embeddings: Tensor) -> Tensor:
    """Points [V, D + 1] whose squared distances are twice 1 - cosine.

    The extra coordinate makes zero rows (padding of the vocabulary) unit vectors too, orthogonal
    to all others.
    """
    units = normalize(embeddings, dim=1)
    is_zero = (units.square().sum(1, keepdim=True) == 0).float()
    return torch.cat([units, is_zero], dim=1)


def _principal_components(points: Tensor, used: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [D], variances [D] ascending and directions [D, D] (columns) of the tokens in use."""
    blocks = list(zip(points.split(ROWS_PER_BLOCK), used.split(ROWS_PER_BLOCK), strict=True))
    count = int(used.sum())
    width = points.shape[1]
    mean = points.new_zeros(width, dtype=torch.float64)
    for rows, kept in blocks:
        mean += rows[kept].double().sum(0) / count
    covariance = points.new_zeros(width, width, dtype=torch.float64)
    for rows, kept in blocks:
        centred = rows[kept].double() - mean
        covariance.addmm_(centred.T, centred, alpha=1 / count)
    variances, directions = torch.linalg.eigh(covariance)
    return mean, variances, directions


def _without_components(points: Tensor, mean: Tensor, directions: Tensor, count: int) -> Tensor:
    width = points.shape[1]
    if not 0 <= count < width:
        raise ValueError(
            f"given {count} principal components to remove from embeddings of {width} dimensions, "
            f"expected 0 to {width - 1}: lower --cost_components"
        )
    largest = directions[:, width - count :]
    found = torch.empty_like(points)
    for rows, out in zip(points.split(ROWS_PER_BLOCK), found.split(ROWS_PER_BLOCK), strict=True):
        centred = rows.double() - mean
        out.copy_(centred - (centred @ largest) @ largest.T)
    return found


def _whitened(
    points: Tensor, mean: Tensor, variances: Tensor, directions: Tensor, tokens: int
) -> Tensor:
    kept = variances > LEAST_VARIANCE * variances[-1]
    width = int(kept.sum())
    # Whitened, n points in n - 1 or more dimensions are the corners of a regular simplex.
    if not 1 <= width < tokens - 1:
        raise ValueError(
            f"given embeddings of {tokens} tokens in use that vary in {width} dimensions, expected "
            "more tokens than dimensions: after whitening all would be equally far from each "
            "other. Choose --cost_type cos_centred"
        )
    scaled = directions[:, kept] / variances[kept].sqrt()
    parts = [((rows.double() - mean) @ scaled).to(rows) for rows in points.split(ROWS_PER_BLOCK)]
    return torch.cat(parts)
