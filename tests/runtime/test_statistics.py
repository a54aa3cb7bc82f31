"""Intervals and pass@k against enumeration and SciPy."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from dschat.runtime.statistics import (
    mean_with_interval,
    pass_at_k,
    wilson_interval,
    win_rate,
)
from scipy import stats


def test_pass_at_k_by_enumeration() -> None:
    for n in range(1, 7):
        for correct in range(n + 1):
            for k in range(1, n + 1):
                draws = list(combinations([i < correct for i in range(n)], k))
                assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    assert pass_at_k(2000, 1000, 500) == 1.0


@pytest.mark.parametrize("arguments", [(3, 4, 1), (3, -1, 1), (3, 1, 4), (3, 1, 0), (0, 0, 1)])
def test_pass_at_k_refuses_the_impossible(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        pass_at_k(*arguments)


def test_the_interval_covers_the_mean() -> None:
    """Of normal samples: as often as it says, give or take what 400 trials can tell."""
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(400):
        found = mean_with_interval(rng.normal(3.0, 2.0, 60).tolist(), trial, resamples=999)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 3.0 <= found.high
    low, high = stats.binom.ppf([0.001, 0.999], 400, 0.94) / 400
    assert low <= covered / 400 <= high


def test_the_interval_of_a_large_sample_is_students() -> None:
    values = np.random.default_rng(1).normal(-1.0, 3.0, 3000)
    found = mean_with_interval(values.tolist(), 0)
    t = stats.t.interval(0.95, 2999, values.mean(), stats.sem(values))
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(t, abs=0.03 * (t[1] - t[0]))


def test_the_interval_of_the_negative_is_the_negative() -> None:
    values = np.random.default_rng(2).exponential(size=200)  # skewed: the correction is at work
    one, other = (mean_with_interval((s * values).tolist(), 5, 999) for s in (1, -1))
    assert (other.low, other.high) == pytest.approx((-(one.high or 0), -(one.low or 0)), rel=1e-9)


def test_intervals_of_few_or_equal_values() -> None:
    assert vars(mean_with_interval([2.0], 0)) == {"mean": 2.0, "low": None, "high": None}
    assert vars(mean_with_interval([2.0] * 9, 0)) == {"mean": 2.0, "low": 2.0, "high": 2.0}
    for values in ([0.0, 1.0], [0.0] * 50 + [1.0], [1e300, -1e300, 0.0]):
        found = mean_with_interval(values, 0, 200)
        assert found.low is not None
        assert found.high is not None
        assert min(values) <= found.low <= found.high <= max(values)


def test_shares() -> None:
    """By Wilson where all are successes and failures, else by bootstrap."""
    for successes, n in ((0, 1), (0, 30), (7, 30), (30, 30)):
        low, high = wilson_interval(successes, n)
        # Wilson's ends are where the share is 1.96 standard errors of the end away.
        for end in {low, high} - {0.0, 1.0}:
            distance = abs(successes / n - end) / (end * (1 - end) / n) ** 0.5
            assert distance == pytest.approx(stats.norm.ppf(0.975))
        values = [1.0] * successes + [0.0] * (n - successes)
        found = mean_with_interval(values, share=True)
        assert (found.low, found.high) == (low, high)
    halves = [1.0, 0.5, 0.0, 1.0, 1.0, 0.5]
    assert mean_with_interval(halves, share=True) == mean_with_interval(halves)


def test_a_win_rate_counts_a_tie_half() -> None:
    rate = win_rate([1.0, 2.0, 3.0, 5.0, 5.0, 0.0], [0.0, 2.0, 9.0, 1.0, 1.0, 0.0])
    assert (rate["wins"], rate["ties"], rate["losses"]) == (3, 2, 1)
    assert rate["win_rate"] == pytest.approx(4 / 6)
    expected = mean_with_interval([1.0, 0.5, 0.0, 1.0, 1.0, 0.5])
    assert rate["interval"] == [expected.low, expected.high]
    assert win_rate([1.0] * 9, [0.0] * 9)["interval"] == list(wilson_interval(9, 9))
    assert win_rate([2.0], [2.0])["interval"] == [0.0, 1.0]
