"""Figures of a ground metric where they are known."""

import math

import pytest
import torch
from dschat.regularization import GroundMetric
from dschat.regularization.ground.inspection import (
    contrast_of,
    neighbours,
    separation,
    spelling_variants,
)


def test_the_figures_of_a_simplex():
    """All costs are the mean cost, and n - 1 entries exp(-1 / epsilon) add up to 1."""
    found = contrast_of(GroundMetric(torch.eye(40)))
    assert found.mean == pytest.approx(math.sqrt(2), rel=1e-5)
    assert found.nearest == pytest.approx(1.0, rel=1e-5)
    assert found.far == pytest.approx(1.0, rel=1e-5)
    assert found.contrast == pytest.approx(0.0, abs=1e-5)
    assert found.opens_at == pytest.approx(1 / math.log(39), rel=1e-2)


def test_separation_is_the_share_of_random_pairs_that_cost_more():
    # 0-1 and 2-3 are 1 and 9 apart; 0-3 and 2-1: 29 and 19. Then 0-3 lies nearer than 2-3.
    metric = GroundMetric(torch.tensor([0.0, 1.0, 20.0, 29.0])[:, None])
    assert separation(metric, [(0, 1), (2, 3)]) == 1.0
    metric = GroundMetric(torch.tensor([0.0, 1.0, 20.0, 5.0])[:, None])
    assert separation(metric, [(0, 1), (2, 3)]) == 0.75
    assert separation(GroundMetric(torch.eye(4)), [(0, 1), (2, 3)]) == 0.5


def test_neighbours_are_in_order_and_in_use():
    metric = GroundMetric(torch.tensor([1.0, 2.0, 4.0, 0.0])[:, None])
    assert [token for token, _ in neighbours(metric, 0)][:2] == [1, 2]


def test_variants_are_found_in_the_vocabulary():
    vocabulary = {"cat": 0, "Cat": 1, "_cat": 2, "_Cat": 3, "dog": 4, "_Dog": 5, "a": 6, "A": 7}
    case, spaced = spelling_variants(vocabulary, "_")
    assert case == [(0, 1), (2, 3)]
    assert spaced == [(0, 2)]
