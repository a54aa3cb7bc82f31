"""The scaling iteration and the kernel operators it may run on."""

import pytest
import torch
from dschat.regularization.kernel_operators import (
    DenseKernel,
    DiagonalKernel,
    SparseKernel,
    kernel_operator,
)
from dschat.regularization.scaling import scale, summarise_plan
from dschat.regularization.token_cost import nearest_tokens, symmetric_kernel

SIZE = 21  # 20 tokens and the bin for the rest


def make_kernel(rng, epsilon=1.0, k=4):
    embeddings = torch.randn(20, 3, generator=rng)
    return symmetric_kernel(nearest_tokens(embeddings, k), epsilon, torch.arange(20))


def dense_matrices(kernel):
    matrix, costs = torch.eye(SIZE, dtype=torch.float64), torch.zeros(SIZE, SIZE).double()
    matrix[kernel.rows, kernel.columns] = kernel.values.double()
    costs[kernel.rows, kernel.columns] = kernel.costs.double()
    return matrix, costs


def distributions(rng, n=9, spread=2.0):
    logits = spread * torch.randn(2, SIZE, n, generator=rng, dtype=torch.float64)
    return logits.softmax(1)


@pytest.mark.parametrize("storage", [DenseKernel, SparseKernel])
def test_operators_are_the_matrix(storage, rng):
    kernel = make_kernel(rng)
    operator = storage(kernel, SIZE, torch.float64)
    matrix, costs = dense_matrices(kernel)
    x = torch.randn(SIZE, 5, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(operator.matvec(x), matrix @ x)
    torch.testing.assert_close(operator.transpose_matvec(x), matrix.T @ x)
    torch.testing.assert_close(operator.cost_matvec(x), (matrix * costs) @ x, rtol=1e-6, atol=1e-6)


def test_storage_follows_the_number_of_entries(rng):
    build = {"dtype": torch.float32, "extra_bins": 1}
    assert isinstance(kernel_operator(make_kernel(rng, epsilon=1e-5), **build), DiagonalKernel)
    assert isinstance(kernel_operator(make_kernel(rng, k=1), **build), SparseKernel)
    assert isinstance(kernel_operator(make_kernel(rng, k=15), **build), DenseKernel)


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


@pytest.mark.parametrize("storage", [DenseKernel, SparseKernel])
@pytest.mark.parametrize("tol", [0.0, 0.05, 1e9])
def test_iteration_is_that_of_each_position_alone(storage, tol, rng):
    kernel = make_kernel(rng)
    matrix, costs = dense_matrices(kernel)
    policy, reference = distributions(rng)
    policy[:, 0] = reference[:, 0]
    operator = storage(kernel, SIZE, torch.float64)
    result = scale(operator, policy, reference, max_iter=12, tol=tol)
    plan = summarise_plan(operator, result, policy, reference)
    expected = one_by_one(matrix, costs, policy, reference, 12, tol)
    for n, (u, v, iterations, cost, error) in enumerate(expected):
        torch.testing.assert_close(result.u[:, n], u)
        torch.testing.assert_close(result.v[:, n], v)
        assert int(result.iterations[n]) == iterations
        torch.testing.assert_close(plan.cost[n], cost, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(plan.marginal_error[n], error, rtol=1e-6, atol=1e-9)
    if tol == 1e9:
        assert result.converged.all()
        assert (result.iterations == 1).all()


@pytest.mark.parametrize("iterations", [1, 4, 10])
def test_diagonal_kernel_is_a_rescaled_log_ratio(iterations, rng):
    # Ratios near 1 keep u and v far from the iteration's constant 1e-16.
    policy, reference = distributions(rng, spread=0.3)
    result = scale(DiagonalKernel(), policy, reference, max_iter=iterations, tol=0.0)
    expected = policy.log() + (iterations - 1) * (policy / reference).log()
    torch.testing.assert_close(result.u.log(), expected, rtol=1e-4, atol=1e-4)


def test_distributions_without_a_common_bin_stay_finite():
    policy = torch.tensor([[1.0], [0.0]])
    operator = DiagonalKernel()
    result = scale(operator, policy, policy.flip(0), max_iter=10, tol=0.0)
    plan = summarise_plan(operator, result, policy, policy.flip(0))
    assert torch.isfinite(result.u).all()
    assert float(plan.cost) == 0.0
    assert float(plan.marginal_error) == pytest.approx(2.0)
