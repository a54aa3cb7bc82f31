"""Ground metrics: their costs against numpy, and whether these are negative definite."""

import numpy as np
import pytest
import torch
from dschat.regularization import GroundMetric, SinkhornDivergence
from dschat.regularization.ground.nearest_table import NearestTable
from dschat.regularization.ground.permutation import permuted
from dschat.regularization.ground.table_cache import cache_path
from dschat.regularization.ground.token_distance import TokenDistance
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

COSTS = [
    {"cost_type": "L2"},
    {"cost_type": "cos"},
    {"cost_type": "cos_centred", "components": 2},
    {"cost_type": "cos_whitened"},
    {"cost_type": "L2", "power": 0.3},
    {"cost_type": "L2", "power": 2.0},
    {"cost_type": "cos", "power": 1.5},
    {"cost_type": "L2", "saturation": 0.3},
    {"cost_type": "cos_centred", "components": 0, "saturation": 2.0, "power": 2.0},
]


def table(rng, tokens=60, width=6):
    """Anisotropic, off the origin, in float64."""
    scale = torch.logspace(0, 1.5, width, dtype=torch.float64)
    return torch.randn(tokens, width, generator=rng, dtype=torch.float64) * scale + 5.0


def largest_eigenvalue(costs):
    """Of J C J, J = 1 - 11'/n, relative to the largest cost: at most 0 if and only if C is
    conditionally negative definite."""
    n = len(costs)
    centring = np.eye(n) - 1 / n
    return np.linalg.eigvalsh(centring @ costs @ centring)[-1] / costs.max()


@pytest.mark.parametrize("options", COSTS, ids=str)
def test_costs_are_conditionally_negative_definite_with_the_tail(options, rng):
    metric = GroundMetric(table(rng), **options)
    block = TokenDistance(metric).block(torch.randperm(60, generator=rng)[None, :40], torch.float64)
    assert block.shape == (1, 41, 41)
    assert largest_eigenvalue(block[0].numpy()) < 1e-9
    kernel = np.exp(-block[0].numpy() / 0.2)
    assert np.linalg.eigvalsh(kernel)[0] > -1e-9


def test_a_power_above_two_is_not_and_is_refused(rng):
    points = np.array([[0.0], [1.0], [2.0]])
    assert largest_eigenvalue(cdist(points, points) ** 2) < 1e-12
    assert largest_eigenvalue(cdist(points, points) ** 2.2) > 0.01
    with pytest.raises(ValueError, match="at most 2"):
        GroundMetric(table(rng), power=2.2)


def test_whitened_and_centred_costs_are_those_of_numpy(rng):
    embeddings = table(rng)
    x = embeddings.numpy() - embeddings.numpy().mean(0)
    every = torch.arange(60)
    _, _, directions = np.linalg.svd(x, full_matrices=False)
    cut = x - x @ directions[:2].T @ directions[:2]
    white = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    for expected, options in (
        (cdist(cut, cut, "cosine"), {"cost_type": "cos_centred", "components": 2}),
        (cdist(white, white, "cosine"), {"cost_type": "cos_whitened"}),
    ):
        found = GroundMetric(embeddings, **options).cost(every, every)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_power_and_saturation_are_those_of_their_definition(rng):
    embeddings, every = table(rng), torch.arange(60)
    distances = cdist(embeddings.numpy(), embeddings.numpy())
    found = GroundMetric(embeddings, power=0.7).cost(every, every)
    np.testing.assert_allclose(found.numpy(), distances**0.7, atol=1e-6)
    found = GroundMetric(embeddings, saturation=0.5).cost(every, every)
    mean = distances.sum() / (60 * 59)
    np.testing.assert_allclose(found.numpy(), 1 - np.exp(-distances / (0.5 * mean)), atol=1e-6)


def test_rows_that_pad_the_vocabulary_do_not_count(rng):
    embeddings = table(rng)
    padded = torch.cat([embeddings, torch.zeros(30, 6, dtype=torch.float64)])
    every = torch.arange(60)
    for options in COSTS:
        alone, among = GroundMetric(embeddings, **options), GroundMetric(padded, **options)
        torch.testing.assert_close(
            alone.cost(every, every), among.cost(every, every), atol=1e-5, rtol=1e-5
        )


def test_what_cannot_be_whitened_is_refused(rng):
    with pytest.raises(ValueError, match="more tokens than dimensions"):
        GroundMetric(table(rng, tokens=7), "cos_whitened")
    with pytest.raises(ValueError, match="0 to 5"):
        GroundMetric(table(rng), "cos_centred", components=6)


def test_no_two_settings_share_a_table(tmp_path, rng):
    embeddings = table(rng).float()
    keys = {
        cache_path(embeddings, 5, GroundMetric(embeddings, **options).key, tmp_path)
        for options in COSTS
    }
    assert len(keys) == len(COSTS)
    # The defaults, said or not, are the published costs and share their tables.
    assert GroundMetric(embeddings, power=1.0).key == "L2"
    for options in COSTS:
        metric = GroundMetric(embeddings, **options)
        rows = NearestTable(embeddings, 5, metric, cache_dir=tmp_path).whole()
        every = torch.arange(60)
        expected = metric.cost(every, every).fill_diagonal_(torch.inf).topk(5, largest=False).values
        torch.testing.assert_close(rows.costs, expected, rtol=1e-3, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(COSTS), st.integers(0, 2**31), st.sampled_from([0.05, 0.3, 2.0]))
def test_the_divergence_is_never_negative(options, seed, epsilon):
    rng = torch.Generator().manual_seed(seed)
    options = {("cost_" + k if k[:4] != "cost" else k): v for k, v in options.items()}
    divergence = SinkhornDivergence(table(rng), 8, epsilon, max_iter=20_000, tol=1e-9, **options)
    policy, reference = 2 * torch.randn(2, 4, 60, generator=rng, dtype=torch.float64)
    actions = torch.zeros(4, dtype=torch.int64)
    assert (divergence(policy, reference, actions).divergence > 0).all()


def test_the_control_moves_every_row_but_the_fixed_within_its_band(rng):
    embeddings = torch.randn(4096, 8, generator=rng) * torch.rand(4096, 1, generator=rng)
    embeddings[4000:] = 0.0
    found = permuted(embeddings, seed=3, fixed=[0, 17])
    assert torch.equal(found, permuted(embeddings, seed=3, fixed=[0, 17]))
    assert not torch.equal(found, permuted(embeddings, seed=4, fixed=[0, 17]))
    stays = (found == embeddings).all(1).nonzero().squeeze(1).tolist()
    assert stays == [0, 17, *range(4000, 4096)]
    order = torch.cdist(found[:4000], embeddings[:4000]).argmin(1)
    assert sorted(order.tolist()) == list(range(4000))
    assert (order - torch.arange(4000)).abs().max() <= 4000 // 7 + 1  # like frequency
    assert (found.norm(dim=1) - embeddings.norm(dim=1)).abs().median() < 0.25  # like norm
