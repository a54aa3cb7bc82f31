"""Means, shares and pass@k with their confidence intervals; the statistics are SciPy's."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
NUMBERS_AT_A_TIME = 2_000_000
"""Of a bootstrap, which bounds its memory."""


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval; the ends are None of a single value."""

    mean: float
    low: float | None
    high: float | None


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


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, JASA 22, 1927): sensible at 0, at 1 and for few."""
    from scipy.stats import binomtest  # scipy.stats alone takes a second to import

    found = binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def mean_with_interval(
    values: Sequence[float], seed: int = 0, resamples: int = 9999, share: bool = False
) -> Estimate:
    """The mean and its 95 % bootstrap interval (BCa: Efron, JASA 82, 1987).

    The values are taken for independent draws: give one for each prompt. Where they are all the
    same the interval is that value, which says nothing of the values that have not been seen.

    Args:
        share: values of 0 and 1 alone are successes and failures, and get a Wilson interval.
    """
    array = np.asarray(values, dtype=np.float64)
    mean = math.fsum(values) / len(values)
    if share and np.isin(array, (0.0, 1.0)).all():
        return Estimate(mean, *wilson_interval(int(array.sum()), len(array)))
    if len(array) < 2:
        return Estimate(mean, None, None)
    if np.ptp(array) == 0:
        return Estimate(mean, mean, mean)
    low, high = _bootstrap(array, seed, resamples, "BCa")
    if not (np.isfinite(low) and np.isfinite(high)):
        # The correction does not exist, for example where no resampled mean is below the mean.
        low, high = _bootstrap(array, seed, resamples, "percentile")
    return Estimate(mean, low, high)


def _bootstrap(array: np.ndarray, seed: int, resamples: int, method: str) -> tuple[float, float]:
    from scipy.stats import bootstrap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of degenerate data: seen by the caller
        found = bootstrap(
            (array,),
            np.mean,
            n_resamples=resamples,
            batch=max(1, NUMBERS_AT_A_TIME // len(array)),
            confidence_level=CONFIDENCE,
            method=method,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return float(found.low), float(found.high)


def win_rate(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float | list[float]]:
    """How often ours is the higher one of a pair, a tie counting half, with a 95 % interval.

    Returns:
        `win_rate`, `interval`, and the counts `wins`, `ties`, `losses`.
    """
    scores = [float(a > b) + (a == b) / 2 for a, b in zip(ours, theirs, strict=True)]
    found = mean_with_interval(scores, share=True)
    return {
        "win_rate": found.mean,
        "interval": [found.low or 0.0, 1.0 if found.high is None else found.high],
        "wins": scores.count(1.0),
        "ties": scores.count(0.5),
        "losses": scores.count(0.0),
    }
