"""Points whose distances are the costs between tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

COST_TYPES = ("L2", "cos")


def token_points(embeddings: Tensor, cost_type: str) -> tuple[Tensor, Tensor]:
    """Points [V, P] and their squared norms [V], float32; float64 stays.

    Their squared distances are those of the embeddings, or for ``cos`` twice 1 - cosine.
    """
    points = embeddings.detach().to(torch.promote_types(embeddings.dtype, torch.float32))
    points = cos_points(points) if cost_type == "cos" else points
    # Distances do not change with the origin; norms around the centre are small, so that less is
    # lost to cancellation.
    points = points - points.mean(0)
    return points, points.square().sum(1)


def cos_points(embeddings: Tensor) -> Tensor:
    """Points [V, D + 1] whose squared distances are twice 1 - cosine.

    The extra coordinate makes zero rows (padding of the vocabulary) unit vectors too, orthogonal
    to all others.
    """
    units = normalize(embeddings, dim=1)
    is_zero = (units.square().sum(1, keepdim=True) == 0).float()
    return torch.cat([units, is_zero], dim=1)


def cost_of_squared(squared: Tensor, cost_type: str) -> Tensor:
    """Costs from the squared distances of `token_points`."""
    return squared / 2 if cost_type == "cos" else squared.sqrt()
