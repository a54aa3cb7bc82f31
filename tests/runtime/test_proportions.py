"""Intervals and pass@k against enumeration and SciPy."""

from __future__ import annotations

from itertools import combinations

import pytest
from dschat.runtime.proportions import pass_at_k, wilson_interval
from scipy.stats import binomtest


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


@pytest.mark.parametrize(("correct", "n"), [(0, 1), (0, 30), (7, 30), (30, 30), (499, 500)])
def test_the_interval_is_scipys(correct: int, n: int) -> None:
    peer = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(correct, n) == pytest.approx((peer.low, peer.high), abs=1e-12)
