"""The solver of `sinkhorn_solver` as one GPU kernel: one program solves one position.

All updates of a position's three problems run in one program, so that its block of costs, 264 KB
at 257 bins, is read from memory once and from the GPU's second-level cache (50 MB and more on the
GPUs this is for) ever after: one wave of positions fits there, as it would not in the 227 KB of
fast memory that a multiprocessor has. The sums are exact in the log domain. float32 only.

Runs without a GPU in Triton's interpreter, if TRITON_INTERPRET=1 is set before the import.
"""

# Arguments of Triton functions have no Python types.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dschat.regularization.transport.sinkhorn_solver import (
    LEAST_EXCESS,
    NEAR,
    ROUNDINGS,
    SMALLEST_LOG_MASS,
    Potentials,
)

ROWS_PER_TILE = 16
LOG_2 = tl.constexpr(0.6931471805599453)
SYMMETRIC_STEP = tl.constexpr(0.75)
LARGEST_EXPONENT = tl.constexpr(50.0)
LOWEST = tl.constexpr(-1e30)
"""In the place of -inf, which would make NaN of a difference."""


def solve(
    log_policy: Tensor, log_reference: Tensor, costs: Tensor, max_iter: int, tol: float
) -> Potentials:
    """As `sinkhorn_solver.solve`, for contiguous float32 tensors on one device.

    Raises:
        ValueError: on tensors of another dtype.
    """
    if costs.dtype != torch.float32:
        raise ValueError(
            f"given costs of {costs.dtype}, expected torch.float32: use the solver in plain torch"
        )
    costs.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    positions, bins = log_policy.shape
    inputs = [
        each.clamp(min=SMALLEST_LOG_MASS).contiguous() for each in (log_policy, log_reference)
    ]
    # Rows: f, g, own f, own g and the weights that the program passes to itself.
    vectors = costs.new_empty(5, positions, bins)
    errors = costs.new_empty(3, positions)
    iterations = torch.empty(positions, dtype=torch.int64, device=costs.device)
    if positions:
        _solve_position[(positions,)](
            *inputs,
            costs.contiguous(),
            vectors,
            errors,
            iterations,
            positions,
            bins,
            max_iter,
            tol,
            min(tol, ROUNDINGS * torch.finfo(torch.float32).eps),
            NEAR=NEAR,
            LEAST_EXCESS=LEAST_EXCESS,
            BINS=triton.next_power_of_2(bins),
            ROWS=ROWS_PER_TILE,
            num_warps=8,
        )
    f, g, own_policy, own_reference, _ = vectors.unbind()
    error, own_policy_error, own_reference_error = errors.unbind()
    converged = (error <= tol) & (own_policy_error <= tol / 2) & (own_reference_error <= tol / 2)
    return Potentials(f, g, own_policy, own_reference, error, converged, iterations)


@triton.jit
def _logaddexp(a, b):
    return tl.maximum(a, b) + tl.log(1 + tl.exp(-tl.abs(a - b)))


@triton.jit
def _log_sums(weights, costs_ptr, scratch_ptr, offsets, valid, bins, BINS, ROWS: tl.constexpr):
    """log sum_i exp(w_i - C_ij) for all j, [BINS], by tiles of rows i with a running maximum."""
    tl.store(scratch_ptr + offsets, weights, mask=valid)
    tl.debug_barrier()
    largest = tl.full([BINS], LOWEST, tl.float32)
    total = tl.zeros([BINS], tl.float32)
    for start in range(0, bins, ROWS):
        rows = start + tl.arange(0, ROWS)
        inside = rows < bins
        tile_weights = tl.load(scratch_ptr + rows, mask=inside, other=LOWEST)
        tile = tl.load(
            costs_ptr + rows[:, None] * bins + offsets[None, :],
            mask=inside[:, None] & valid[None, :],
            other=0.0,
        )
        terms = tile_weights[:, None] - tile
        new_largest = tl.maximum(largest, tl.max(terms, axis=0))
        total = total * tl.exp(largest - new_largest)
        total += tl.sum(tl.exp(terms - new_largest[None, :]), axis=0)
        largest = new_largest
    # All threads must have read the weights before the next call overwrites them.
    tl.debug_barrier()
    return tl.where(valid, largest + tl.log(total), 0.0)


@triton.jit
def _error(log_mass, potential, weights, sums, valid):
    """L1 distance of a marginal of the plan from what it should be, and the mass above 1."""
    exponent = tl.minimum(potential + _logaddexp(weights, sums), LARGEST_EXPONENT)
    excess = tl.where(valid, tl.exp(log_mass) * (tl.exp(exponent) - 1), 0.0)
    return tl.sum(tl.abs(excess), axis=0), tl.sum(excess, axis=0)


@triton.jit
def _solve_own_bins(log_mass, x):
    return LOG_2 - _logaddexp(x, _logaddexp(2 * x, 2 * LOG_2 + log_mass) / 2)


@triton.jit
def _solve_symmetric(
    log_mass, costs_ptr, scratch_ptr, offsets, valid, bins, max_iter, tol, BINS, ROWS: tl.constexpr
):
    """Potential of a distribution with itself, its marginal error and its mass above 1."""
    mass = tl.where(valid, tl.exp(log_mass), 0.0)
    mass = mass / tl.sum(mass, axis=0)
    x = _log_sums(log_mass, costs_ptr, scratch_ptr, offsets, valid, bins, BINS, ROWS)
    f = _solve_own_bins(log_mass, x)
    x = _log_sums(log_mass + f, costs_ptr, scratch_ptr, offsets, valid, bins, BINS, ROWS)
    error, excess = _error(log_mass, f, log_mass + f, x, valid)
    update = 0
    while (error > tol) & (update < max_iter):
        change = _solve_own_bins(log_mass, x) - f
        mean_change = tl.sum(mass * change, axis=0)
        f = f + SYMMETRIC_STEP * (change - mean_change) + mean_change / 2
        x = _log_sums(log_mass + f, costs_ptr, scratch_ptr, offsets, valid, bins, BINS, ROWS)
        error, excess = _error(log_mass, f, log_mass + f, x, valid)
        update += 1
    return f, error, excess


@triton.jit
def _solve_bins(log_p, log_q, x, y):
    """(f, g) that satisfy both equations of every bin, see `sinkhorn_solver`."""
    log_m = x + y
    log_sum = _logaddexp(log_p, log_q)
    gap = -tl.abs(log_p - log_q)
    # 1 - exp(gap) without cancellation.
    series = -gap * (1 + gap / 2 * (1 + gap / 3 * (1 + gap / 4)))
    share = tl.where(gap > -0.05, series, 1 - tl.exp(gap))
    log_difference = tl.maximum(log_p, log_q) + tl.where(
        share > 0, tl.log(tl.maximum(share, 1e-38)), LOWEST
    )
    log_root = _logaddexp(2 * log_m, log_m + LOG_2 + log_sum)
    log_root = _logaddexp(log_root, 2 * log_difference) / 2
    log_m_root = _logaddexp(log_m, log_root)
    log_denominator = _logaddexp(log_sum, log_m_root)
    log_larger = _logaddexp(log_difference, log_m_root) - log_denominator
    log_smaller = log_m + LOG_2 - log_denominator - log_larger
    policy_has_more = log_p > log_q
    f = tl.where(policy_has_more, log_larger, log_smaller) - x
    g = tl.where(policy_has_more, log_smaller, log_larger) - y
    return f, g


# Compiled alike for one position and many.
@triton.jit(do_not_specialize=["positions", "max_iter"])
def _solve_position(
    log_p_ptr,
    log_q_ptr,
    costs_ptr,
    vectors_ptr,
    errors_ptr,
    iterations_ptr,
    positions,
    bins,
    max_iter,
    tol,
    least_tol,
    NEAR: tl.constexpr,
    LEAST_EXCESS: tl.constexpr,
    BINS: tl.constexpr,
    ROWS: tl.constexpr,
):
    position = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BINS)
    valid = offsets < bins
    place = position * bins
    stride = positions.to(tl.int64) * bins
    costs_ptr += place * bins
    vectors_ptr += place
    scratch_ptr = vectors_ptr + 4 * stride
    log_p = tl.load(log_p_ptr + place + offsets, mask=valid, other=-80.0)
    log_q = tl.load(log_q_ptr + place + offsets, mask=valid, other=-80.0)

    gaps = tl.where(valid, tl.abs(tl.exp(log_p) - tl.exp(log_q)), 0.0)
    aim = tl.maximum(tl.minimum(tol / NEAR * tl.sum(gaps, axis=0), tol), least_tol)
    own_f, own_error_p, own_excess_p = _solve_symmetric(
        log_p, costs_ptr, scratch_ptr, offsets, valid, bins, max_iter, aim / 2, BINS, ROWS
    )
    own_g, own_error_q, own_excess_q = _solve_symmetric(
        log_q, costs_ptr, scratch_ptr, offsets, valid, bins, max_iter, aim / 2, BINS, ROWS
    )
    threshold = tl.maximum(own_error_p + own_error_q, aim)
    f, g = own_f, own_g
    x = _log_sums(log_q + g, costs_ptr, scratch_ptr, offsets, valid, bins, BINS, ROWS)
    y = _log_sums(log_p + f, costs_ptr, scratch_ptr, offsets, valid, bins, BINS, ROWS)
    error, excess = _error(log_p, f, log_q + g, x, valid)
    error_g, _ = _error(log_q, g, log_p + f, y, valid)
    error += error_g
    update = 0
    while (error > threshold) & (update < max_iter):
        new_f, _ = _solve_bins(log_p, log_q, x, y)
        y = _log_sums(log_p + new_f, costs_ptr, scratch_ptr, offsets, valid, bins, BINS, ROWS)
        f, g = _solve_bins(log_p, log_q, x, y)
        x = _log_sums(log_q + g, costs_ptr, scratch_ptr, offsets, valid, bins, BINS, ROWS)
        y = _log_sums(log_p + f, costs_ptr, scratch_ptr, offsets, valid, bins, BINS, ROWS)
        error, excess = _error(log_p, f, log_q + g, x, valid)
        error_g, _ = _error(log_q, g, log_p + f, y, valid)
        error += error_g
        update += 1
    # Plans of mass 1, see `sinkhorn_solver.solve`.
    half = tl.log(1 + tl.maximum(excess, LEAST_EXCESS)) / 2
    own_half_p = tl.log(1 + tl.maximum(own_excess_p, LEAST_EXCESS)) / 2
    own_half_q = tl.log(1 + tl.maximum(own_excess_q, LEAST_EXCESS)) / 2
    tl.store(vectors_ptr + offsets, f - half, mask=valid)
    tl.store(vectors_ptr + stride + offsets, g - half, mask=valid)
    tl.store(vectors_ptr + 2 * stride + offsets, own_f - own_half_p, mask=valid)
    tl.store(vectors_ptr + 3 * stride + offsets, own_g - own_half_q, mask=valid)
    tl.store(errors_ptr + position, error)
    tl.store(errors_ptr + positions + position, own_error_p)
    tl.store(errors_ptr + 2 * positions + position, own_error_q)
    tl.store(iterations_ptr + position, update)
