"""Tokens in use and their nearest others, against brute force."""

import pytest
import torch
from dschat.regularization import GroundMetric
from dschat.regularization.ground.used_tokens import sample_of_tokens, used_tokens
from scipy.spatial.distance import cdist

METRICS = {"L2": "euclidean", "cos": "cosine"}


@pytest.mark.parametrize("cost_type", ["L2", "cos"])
def test_nearest_costs_are_brute_force(cost_type, rng):
    embeddings = torch.randn(300, 7, generator=rng) + 3.0
    embeddings[torch.rand(300, generator=rng) > 0.8] = embeddings[0].clone()
    metric = GroundMetric(embeddings, cost_type)
    used = metric.used
    assert 200 < used.sum() < 280
    tokens = used.nonzero().squeeze(1)
    distances = torch.from_numpy(cdist(embeddings, embeddings, METRICS[cost_type]))
    distances.fill_diagonal_(torch.inf)[:, ~used] = torch.inf
    found = metric.nearest_costs(tokens)
    expected = distances[tokens].amin(1).float()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fill", ["zeros", "copies", "noise"])
@pytest.mark.parametrize("cost_type", ["L2", "cos"])
def test_rows_that_were_never_trained_do_not_count(fill, cost_type, rng):
    embeddings = torch.randn(400, 6, generator=rng)
    alone = embeddings[:160].clone()
    untrained = {
        "zeros": torch.zeros(6),
        "copies": torch.randn(6, generator=rng),
        "noise": 1e-9 * torch.randn(240, 6, generator=rng),
    }
    embeddings[160:] = untrained[fill]
    assert used_tokens(embeddings).tolist() == [True] * 160 + [False] * 240
    expected = GroundMetric(alone, cost_type).nearest
    assert GroundMetric(embeddings, cost_type).nearest == pytest.approx(expected, rel=1e-4)


def test_a_pair_of_equal_tokens_is_in_use_and_its_nearest_is_another(rng):
    points = torch.randn(50, 4, generator=rng)
    embeddings = torch.cat([points, points])
    metric = GroundMetric(embeddings)
    assert metric.used.all()
    found = metric.nearest_costs(torch.arange(100))
    alone = GroundMetric(points).nearest_costs(torch.arange(50))
    torch.testing.assert_close(found, alone.repeat(2), rtol=1e-4, atol=1e-6)


def test_nothing_but_equal_rows():
    metric = GroundMetric(torch.ones(9, 3))
    assert metric.used.all()
    assert metric.nearest == 0.0


def test_the_sample_is_fixed(rng):
    used = torch.rand(5000, generator=rng) > 0.5
    first = sample_of_tokens(used, 100)
    assert first.equal(sample_of_tokens(used, 100))
    assert len(first) == 100
    assert used[first].all()
    assert (first[1:] > first[:-1]).all()
