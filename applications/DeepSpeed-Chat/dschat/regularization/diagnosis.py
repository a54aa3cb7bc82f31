"""Does epsilon fit the distances between tokens? Figures of the table, and a warning in words."""

from __future__ import annotations

import torch

from dschat.regularization.base import mean
from dschat.regularization.table_cache import NearestTokens
from dschat.regularization.token_kernel import NEGLIGIBLE

DIAGONAL_SHARE = 0.01
"""Below this share of kernel entries above 1e-16 the kernel is numerically diagonal."""


def diagnose_kernel(table: NearestTokens, epsilon: float) -> dict[str, float]:
    """Figures over the whole vocabulary.

    Returns:
        ``median_nearest_cost``: median over tokens of the cost to the nearest other token;
        ``nearest_cost_over_epsilon``: that over epsilon; ``kernel_share_above_1e-16``: share of
        the table's entries exp(-cost / epsilon) above 1e-16. Smaller ones transport nothing.
    """
    median = float(table.costs[:, 0].median())
    return {
        "median_nearest_cost": median,
        "nearest_cost_over_epsilon": median / epsilon,
        "kernel_share_above_1e-16": mean(torch.exp(-table.costs / epsilon) > NEGLIGIBLE),
    }


def diagonal_warning(diagnosis: dict[str, float], epsilon: float) -> str | None:
    """What to tell the user if the kernel is numerically diagonal; None if it is not."""
    share = diagnosis["kernel_share_above_1e-16"]
    if share >= DIAGONAL_SHARE:
        return None
    median, ratio = diagnosis["median_nearest_cost"], diagnosis["nearest_cost_over_epsilon"]
    return (
        f"The Wasserstein penalty sees no token distances at --epsilon {epsilon:g}: the nearest "
        f"other token lies {median:.3g} away (median), {ratio:.0f} times epsilon, and only "
        f"{share:.2%} of the kernel's off-diagonal entries exceed 1e-16. The kernel is the "
        "identity, and the penalty a rescaled log-ratio of policy and reference. For a penalty "
        f"that counts near tokens as near, raise --epsilon to about {median / 3:.2g}."
    )
