"""Shares of right answers: their confidence interval, and the chance of one in k tries."""

from __future__ import annotations

import math
from statistics import NormalDist


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that at least one of k responses is right, from n samples of which `correct` are.

    The unbiased estimator 1 - C(n - correct, k) / C(n, k) of Chen et al. 2021 (arXiv 2107.03374).

    Raises:
        ValueError: not 0 <= correct <= n and 1 <= k <= n.
    """
    if not (0 <= correct <= n and 1 <= k <= n):
        raise ValueError(
            f"given {correct} right of {n} samples and k = {k}; expected 0 <= right <= samples and "
            "1 <= k <= samples"
        )
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def wilson_interval(correct: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a share (Wilson, JASA 22, 1927): sensible at 0, at 1 and for few."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = correct / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At a share of 0 or 1 one end is that share itself; rounding may put it beyond.
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
