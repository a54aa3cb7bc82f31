"""The nearest-token table and its kernel against brute force."""

import pytest
import torch
from dschat.regularization.ground.nearest_table import NearestTable, nearest_tokens
from dschat.regularization.transport import token_kernel
from dschat.regularization.transport.token_kernel import symmetric_kernel, vocabulary_kernel
from scipy.spatial.distance import cdist

METRICS = {"L2": "euclidean", "cos": "cosine"}


def brute_force(embeddings, cost_type):
    """[V, V] float64 distances with infinity on the diagonal."""
    points = embeddings.double().numpy()
    distances = torch.from_numpy(cdist(points, points, METRICS[cost_type]))
    return distances.fill_diagonal_(torch.inf)


@pytest.mark.parametrize("cost_type", ["L2", "cos"])
@pytest.mark.parametrize("k", [1, 5, 40, 500])
@pytest.mark.parametrize("block_size", [7, 1024])
def test_table_is_brute_force(cost_type, k, block_size, rng):
    # A common offset makes the identity |x|^2 - 2 x.y + |y|^2 cancel badly.
    embeddings = torch.randn(61, 6, generator=rng) + 20.0 * (cost_type == "L2")
    table = nearest_tokens(embeddings, k, cost_type, block_size)
    distances = brute_force(embeddings, cost_type)
    k = min(k, 60)
    assert table.indices.shape == table.costs.shape == (61, k)
    expected = distances.topk(k, largest=False).values.float()
    torch.testing.assert_close(table.costs, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        distances.gather(1, table.indices.long()).float(), expected, rtol=1e-4, atol=1e-6
    )
    assert all(len(set(row.tolist())) == k for row in table.indices)


def test_many_tokens_use_the_grouped_selection(rng):
    embeddings = torch.randn(2500, 8, generator=rng)
    table = nearest_tokens(embeddings, 20, block_size=300)
    expected = brute_force(embeddings, "L2").topk(20, largest=False)
    torch.testing.assert_close(table.costs, expected.values.float(), rtol=1e-5, atol=1e-6)
    assert (table.indices == expected.indices).float().mean() > 0.999


@pytest.mark.parametrize("cost_type", ["L2", "cos"])
def test_equal_rows_are_neighbours_at_no_cost_and_never_oneself(cost_type, rng):
    embeddings = torch.randn(50, 4, generator=rng)
    embeddings[7] = embeddings[3]
    embeddings[40:] = 0.0  # rows that only pad the vocabulary
    table = nearest_tokens(embeddings, 6, cost_type)
    assert torch.isfinite(table.costs).all()
    assert not (table.indices == torch.arange(50)[:, None]).any()
    assert table.indices[3, 0] == 7
    assert table.indices[7, 0] == 3
    assert float(table.costs[3, 0]) == 0.0
    assert (table.costs[40:] == 0).all()
    assert (table.indices[40:] >= 40).all()


def test_nearly_equal_rows_keep_their_relative_accuracy(rng):
    embeddings = torch.randn(30, 64, generator=rng)
    embeddings[1] = embeddings[0] + 1e-4 * torch.randn(64, generator=rng)
    table = nearest_tokens(embeddings, 3)
    assert table.indices[0, 0] == 1
    exact = (embeddings[0].double() - embeddings[1].double()).norm()
    assert float(table.costs[0, 0]) == pytest.approx(float(exact), rel=1e-2)


@pytest.mark.parametrize(
    ("embeddings", "options", "message"),
    [
        (torch.zeros(5), {}, "V, D"),
        (torch.zeros(5, 2, dtype=torch.int64), {}, "floating-point"),
        (torch.full((5, 2), torch.nan), {}, "NaN"),
        (torch.zeros(5, 2), {"cost_type": "L1"}, "L2, cos"),
        (torch.zeros(5, 2), {"k": 0}, "at least 1"),
    ],
)
def test_unusable_inputs_are_refused(embeddings, options, message):
    with pytest.raises(ValueError, match=message):
        nearest_tokens(embeddings, **{"k": 2, **options})


@pytest.mark.parametrize("cost_type", ["L2", "cos"])
@pytest.mark.parametrize("width", [3, 64, 640])
def test_a_row_is_the_same_whenever_it_is_made(cost_type, width, rng):
    """Bit for bit, or a resumed run and one that was not would part."""
    embeddings = torch.randn(300, width, generator=rng)
    whole = nearest_tokens(embeddings, 20, cost_type)
    table = NearestTable(embeddings, 20, cost_type, block_size=9)
    order = torch.randperm(300, generator=rng)
    for tokens in (order[:1], order[:40].sort().values, order[30:200].sort().values):
        found = table.rows(tokens)
        assert torch.equal(found.indices, whole.indices[tokens])
        assert torch.equal(found.costs, whole.costs[tokens])
    assert not table.is_whole
    assert all(torch.equal(*pair) for pair in zip(table.whole(), whole, strict=True))
    assert table.is_whole


def test_rows_of_equal_cost_are_in_the_order_of_ids():
    table = nearest_tokens(torch.tensor([0.0, 1.0, -1.0, 1.0, -1.0])[:, None], 3)
    assert table.indices[0].tolist() == [1, 2, 3]


def dense_kernel(embeddings, k, epsilon):
    """exp(-C / epsilon) where one of the pair is among the k nearest of the other; float64."""
    distances = brute_force(embeddings, "L2")
    nearest = torch.zeros_like(distances).scatter_(1, distances.topk(k, largest=False).indices, 1.0)
    kernel = torch.exp(-distances / epsilon) * torch.maximum(nearest, nearest.T)
    return kernel.fill_diagonal_(1.0)


@pytest.mark.parametrize("epsilon", [0.02, 0.5, 50.0])
def test_symmetric_kernel_is_brute_force_on_the_support(epsilon, rng):
    embeddings = torch.randn(60, 5, generator=rng)
    support = torch.randperm(60, generator=rng)[:25].sort().values
    kernel = symmetric_kernel(
        vocabulary_kernel(nearest_tokens(embeddings, 7), epsilon), support, extra_bins=1
    )
    assert kernel.size == 26
    extended = torch.zeros(26, 26)
    extended[kernel.rows, kernel.columns.long()] = kernel.values
    dense = extended[:25, :25]
    assert extended[25].tolist() == extended[:, 25].tolist() == [0.0] * 25 + [1.0]
    expected = dense_kernel(embeddings, 7, epsilon)[support][:, support].float()
    expected[expected < torch.finfo(torch.float32).tiny] = 0.0
    torch.testing.assert_close(dense, expected, rtol=1e-3, atol=0.0)
    assert torch.equal(dense, dense.T)
    assert (kernel.values > 0).all()
    assert len(kernel.values) == expected.count_nonzero() + 1


@pytest.mark.parametrize("epsilon", [1e-6, 0.02, 0.5])
def test_the_kernel_needs_the_rows_of_the_support_only(epsilon, rng):
    embeddings = torch.randn(60, 5, generator=rng)
    support = torch.randperm(60, generator=rng)[:25].sort().values
    whole = symmetric_kernel(vocabulary_kernel(nearest_tokens(embeddings, 7), epsilon), support, 1)
    rows = NearestTable(embeddings, 7).rows(support)
    among = symmetric_kernel(vocabulary_kernel(rows, epsilon, support), torch.arange(25), 1)
    for found, expected in zip(among, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)


def test_the_kernel_is_the_same_in_blocks(monkeypatch, rng):
    table = nearest_tokens(torch.randn(60, 5, generator=rng), 7)
    support = torch.randperm(60, generator=rng)[:25].sort().values
    whole = symmetric_kernel(vocabulary_kernel(table, 0.5), support)
    monkeypatch.setattr(token_kernel, "ENTRIES_PER_BLOCK", {"cpu": 30, "cuda": 30})
    blocked = symmetric_kernel(vocabulary_kernel(table, 0.5), support)
    for found, expected in zip(blocked, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)


def test_the_share_counts_the_tables_entries_of_the_support():
    # Neighbours 1, 1, 2, 3 and 10 apart; at epsilon 0.05 only costs below 1.84 exceed 1e-16.
    table = nearest_tokens(torch.tensor([0.0, 1.0, 2.0, 4.0, 7.0, 17.0])[:, None], 1)
    vocabulary = vocabulary_kernel(table, 0.05)
    kernel = symmetric_kernel(vocabulary, torch.tensor([0, 1, 3, 5]))
    assert kernel.share_above == 0.5


def test_symmetric_kernel_without_any_neighbour_in_the_support():
    table = nearest_tokens(torch.arange(10.0)[:, None], 1)
    kernel = symmetric_kernel(vocabulary_kernel(table, 0.01), torch.tensor([0, 4, 8]))
    assert kernel.rows.tolist() == kernel.columns.tolist() == [0, 1, 2]
    assert kernel.values.tolist() == [1.0, 1.0, 1.0]
    assert kernel.share_above == 0.0
    with pytest.raises(ValueError, match="positive"):
        vocabulary_kernel(table, 0.0)
