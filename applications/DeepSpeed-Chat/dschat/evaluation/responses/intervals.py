"""Means with bootstrap intervals."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
NUMBERS_AT_A_TIME = 2_000_000


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval; the ends are None of a single value."""

    mean: float
    low: float | None
    high: float | None


def mean_with_interval(values: Sequence[float], seed: int, resamples: int = 9999) -> Estimate:
    """The mean and its 95 % bootstrap interval (BCa: Efron, JASA 82, 1987), by `scipy.stats`.

    The values are taken for independent draws: give one for each prompt. Where they are all the
    same the interval is that value, which says nothing of the values that have not been seen.
    """
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return Estimate(mean, None, None)
    if np.ptp(array) == 0:
        return Estimate(mean, mean, mean)
    low, high = _interval(array, seed, resamples, "BCa")
    if not (np.isfinite(low) and np.isfinite(high)):
        # The correction does not exist, for example where no resampled mean is below the mean.
        low, high = _interval(array, seed, resamples, "percentile")
    return Estimate(mean, low, high)


def _interval(array: np.ndarray, seed: int, resamples: int, method: str) -> tuple[float, float]:
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
