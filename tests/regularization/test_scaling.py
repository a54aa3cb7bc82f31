"""The scaling iteration and the kernel operators it may run on."""

import pytest
import torch
from dschat.regularization.ground.nearest_table import nearest_tokens
from dschat.regularization.transport.kernel_operators import (
    DenseKernel,
    GatheredKernel,
    SparseKernel,
    kernel_operator,
)
from dschat.regularization.transport.scaling import scale, summarise_plan
from dschat.regularization.transport.token_kernel import symmetric_kernel, vocabulary_kernel

SIZE = 21  # 20 tokens and the bin for the rest
STORAGES = [DenseKernel, SparseKernel, GatheredKernel]


def make_kernel(rng, epsilon=1.0, k=4):
    embeddings = torch.randn(20, 3, generator=rng)
    vocabulary = vocabulary_kernel(nearest_tokens(embeddings, k), epsilon)
    return symmetric_kernel(vocabulary, torch.arange(20), extra_bins=1)


def dense_matrices(kernel):
    matrix, costs = torch.zeros(2, SIZE, SIZE, dtype=torch.float64)
    matrix[kernel.rows, kernel.columns.long()] = kernel.values.double()
    costs[kernel.rows, kernel.columns.long()] = kernel.costs.double()
    return matrix, costs


def distributions(rng, n=9, spread=2.0):
    logits = spread * torch.randn(2, SIZE, n, generator=rng, dtype=torch.float64)
    return logits.softmax(1)


def make_operator(storage, kernel):
    """The gathered kernel is for float32; the others take float64 too."""
    if storage is GatheredKernel:
        return GatheredKernel(kernel), torch.float32
    return storage(kernel, torch.float64), torch.float64


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("columns", [1, 5, 40])
def test_operators_are_the_matrix(storage, columns, rng):
    kernel = make_kernel(rng)
    operator, dtype = make_operator(storage, kernel)
    matrix, costs = (each.to(dtype) for each in dense_matrices(kernel))
    x = torch.rand(SIZE, columns, generator=rng, dtype=dtype)
    torch.testing.assert_close(operator.matvec(x), matrix @ x)
    torch.testing.assert_close(operator.cost_matvec(x), (matrix * costs) @ x, rtol=1e-6, atol=1e-6)
    assert torch.equal(matrix, matrix.T)


def test_storage_follows_the_number_of_entries_and_the_precision(rng):
    assert kernel_operator(make_kernel(rng, epsilon=1e-5), torch.float32) is None
    assert isinstance(kernel_operator(make_kernel(rng, k=1), torch.float32), GatheredKernel)
    assert isinstance(kernel_operator(make_kernel(rng, k=1), torch.float64), SparseKernel)
    assert isinstance(kernel_operator(make_kernel(rng, k=15), torch.float32), DenseKernel)


def one_by_one(matrix, costs, policy, reference, max_iter, tol):
    """The published iteration for each position on its own."""
    columns = []
    for p, q in zip(policy.T, reference.T, strict=True):
        u, v = torch.ones_like(p), torch.ones_like(q)
        for iteration in range(1, max_iter + 1):  # noqa: B007
            previous = u
            u = p / (matrix @ v + 1e-16)
            v = q / (matrix.T @ u + 1e-16)
            if (u - previous).abs().max() <= tol:
                break
        plan = u[:, None] * matrix * v
        error = (plan.sum(1) - p).abs().sum() + (plan.sum(0) - q).abs().sum()
        columns.append((u, v, iteration, (plan * costs).sum() / plan.sum(), error))
    return columns


@pytest.mark.parametrize(
    ("storage", "tol"),
    [
        (storage, tol)
        for storage in (*STORAGES, None)
        for tol in (0.0, 0.05, 1e9)
        # float32 may leave an iteration earlier or later.
        if not (storage is GatheredKernel and tol == 0.05)
    ],
)
def test_iteration_is_that_of_each_position_alone(storage, tol, rng):
    kernel = make_kernel(rng, epsilon=1.0 if storage else 1e-5)
    matrix, costs = dense_matrices(kernel)
    operator, dtype = make_operator(storage, kernel) if storage else (None, torch.float64)
    policy, reference = (each.to(dtype) for each in distributions(rng))
    policy[:, 0] = reference[:, 0]
    result = scale(operator, policy, reference, max_iter=12, tol=tol)
    plan = summarise_plan(operator, result, policy, reference)
    expected = one_by_one(matrix, costs, policy.double(), reference.double(), 12, tol)
    close = {"rtol": 1e-6, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-5}
    for n, (u, v, iterations, cost, error) in enumerate(expected):
        if dtype == torch.float64:  # float32 may reach its fixed point earlier
            assert int(result.iterations[n]) == iterations
        for found, wanted in (
            (result.u[:, n], u),
            (result.v[:, n], v),
            (plan.cost[n], cost),
            (plan.marginal_error[n], error),
        ):
            torch.testing.assert_close(found.double(), wanted, **close)
    if tol == 1e9:
        assert result.converged.all()
        assert (result.iterations == 1).all()


def test_positions_that_converge_at_different_times_keep_their_own_iterates(rng):
    """With more bins than are probed, and a tolerance that positions meet one after the other."""
    wide = 400
    points = nearest_tokens(torch.randn(wide, 3, generator=rng), wide - 1)
    kernel = symmetric_kernel(vocabulary_kernel(points, 0.7), torch.arange(wide))
    operator = DenseKernel(kernel, torch.float64)
    matrix = operator.matvec(torch.eye(wide, dtype=torch.float64))
    p, q = torch.randn(2, wide, 20, generator=rng, dtype=torch.float64)
    p *= torch.logspace(-3, 0.5, 20)
    policy, reference = p.softmax(0), (p + torch.logspace(-3, 0.5, 20) * q).softmax(0)
    result = scale(operator, policy, reference, max_iter=40, tol=1e-6)
    assert len(result.iterations.unique()) >= 3
    expected = one_by_one(matrix, torch.zeros(wide, wide), policy, reference, 40, 1e-6)
    for n, (u, v, iterations, _, _) in enumerate(expected):
        assert int(result.iterations[n]) == iterations
        torch.testing.assert_close(result.u[:, n], u)
        torch.testing.assert_close(result.v[:, n], v)


def test_the_layout_in_memory_does_not_matter(rng):
    policy, reference = distributions(rng)
    rows = [each.T.contiguous().T for each in (policy, reference)]
    for found, expected in zip(
        scale(None, *rows, 7, 1e-6), scale(None, policy, reference, 7, 1e-6), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("iterations", [1, 4, 10])
def test_diagonal_kernel_is_a_rescaled_log_ratio(iterations, rng):
    # Ratios near 1 keep u and v far from the iteration's constant 1e-16.
    policy, reference = distributions(rng, spread=0.3)
    result = scale(None, policy, reference, max_iter=iterations, tol=0.0)
    expected = policy.log() + (iterations - 1) * (policy / reference).log()
    torch.testing.assert_close(result.u.log(), expected, rtol=1e-4, atol=1e-4)


def test_distributions_without_a_common_bin_stay_finite():
    policy = torch.tensor([[1.0], [0.0]])
    result = scale(None, policy, policy.flip(0), max_iter=10, tol=0.0)
    plan = summarise_plan(None, result, policy, policy.flip(0))
    assert torch.isfinite(result.u).all()
    assert float(plan.cost) == 0.0
    assert float(plan.marginal_error) == pytest.approx(2.0)
