"""Smoothed KL, kernel MMD and energy distance against their definitions written with matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dschat.regularization import (
    EnergyDistance,
    KernelMMD,
    KLDivergence,
    MultiReference,
    SinkhornDivergence,
    SmoothedKL,
)
from dschat.regularization.semantic.token_smoothing import TokenSmoothing
from scipy.special import rel_entr
from torch import Tensor

VOCABULARY = 7
POINTS = torch.randn(VOCABULARY, 3, generator=torch.Generator().manual_seed(0)).double()
NEIGHBOURS, TEMPERATURE, SHARE = 4, 0.5, 0.3
PENALTIES = {
    "smoothed_kl": SmoothedKL(POINTS, NEIGHBOURS, TEMPERATURE),
    "kernel_mmd": KernelMMD(POINTS, SHARE),
    "energy_distance, cos": EnergyDistance(POINTS, cost_type="cos"),
    "energy_distance, L2": EnergyDistance(POINTS, VOCABULARY),
}


def cosines() -> np.ndarray:
    units = POINTS.numpy() / np.linalg.norm(POINTS.numpy(), axis=1, keepdims=True)
    return units @ units.T


def smoothing_matrix() -> np.ndarray:
    """S by its definition: the NEIGHBOURS largest cosines of a row (its own is 1) in a softmax."""
    scores = cosines() / TEMPERATURE
    least = np.sort(scores, axis=1)[:, -NEIGHBOURS][:, None]
    weights = np.where(scores >= least, np.exp(scores), 0)
    return weights / weights.sum(1, keepdims=True)


def kernel_matrix() -> np.ndarray:
    units = POINTS.numpy() / np.linalg.norm(POINTS.numpy(), axis=1, keepdims=True)
    units = units - units.mean(0)
    return units @ units.T / np.mean((units**2).sum(1)) + SHARE * np.eye(VOCABULARY)


def costs(kind: str) -> np.ndarray:
    """In units of the mean over pairs."""
    points = POINTS.numpy()
    c = 1 - cosines()
    if kind == "L2":
        c = np.linalg.norm(points[:, None] - points[None], axis=2)
    return c / (c.sum() / (VOCABULARY * (VOCABULARY - 1)))


def definition(name: str, pi: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """D [N] of distributions [N, V]."""
    if name == "smoothed_kl":
        s = smoothing_matrix()
        return rel_entr(pi @ s, rho @ s).sum(1)
    d = pi - rho
    matrix = kernel_matrix() if name == "kernel_mmd" else -costs(name.split(", ")[1])
    return np.einsum("ni,ij,nj->n", d, matrix, d) / 2


def all_actions(penalty, policy: Tensor, reference) -> tuple[Tensor, Tensor]:
    """phi [N, V] and D [N]."""
    n, v = policy.shape
    rows = torch.arange(n).repeat_interleave(v)
    others = reference[rows] if isinstance(reference, Tensor) else [r[rows] for r in reference]
    found = penalty(policy[rows], others, torch.arange(v).repeat(n))
    return found.token.view(n, v), found.divergence.view(n, v)[:, 0]


@pytest.mark.parametrize("name", PENALTIES)
def test_the_divergence_is_that_of_the_definition(name: str, logits) -> None:
    policy, reference = logits
    expected = definition(name, policy.softmax(1).numpy(), reference.softmax(1).numpy())
    _, divergence = all_actions(PENALTIES[name], policy, reference)
    np.testing.assert_allclose(divergence.numpy(), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", PENALTIES)
def test_phi_has_mean_d_and_is_the_slope_of_the_definition(name: str, logits, rng) -> None:
    policy, reference = logits
    phi, divergence = all_actions(PENALTIES[name], policy, reference)
    pi, rho = policy.softmax(1), reference.softmax(1)
    torch.testing.assert_close((pi * phi).sum(1), divergence, rtol=1e-10, atol=1e-13)
    direction = pi * torch.randn(pi.shape, generator=rng, dtype=pi.dtype)
    direction = direction - pi * direction.sum(1, keepdim=True)
    step = 1e-5
    up, down = (
        definition(name, (pi + sign * step * direction).numpy(), rho.numpy()) for sign in (1, -1)
    )
    slope = (phi * direction).sum(1).numpy()
    np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", PENALTIES)
def test_equal_distributions_cost_nothing(name: str, logits) -> None:
    policy, _ = logits
    phi, divergence = all_actions(PENALTIES[name], policy, policy.clone())
    assert float(phi.abs().max()) < 1e-12
    assert float(divergence.abs().max()) < 1e-12


@pytest.mark.parametrize("name", PENALTIES)
def test_float32_agrees_with_float64_at_the_extremes(name: str, extreme_logits) -> None:
    policy, reference = extreme_logits
    phi, divergence = all_actions(PENALTIES[name], policy.float(), reference.float())
    exact, exact_divergence = all_actions(PENALTIES[name], policy.double(), reference.double())
    assert bool((divergence >= 0).all())
    torch.testing.assert_close(phi.double(), exact, rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(divergence.double(), exact_divergence, rtol=2e-5, atol=2e-6)


def test_one_neighbour_is_the_kl_divergence(extreme_logits) -> None:
    policy, reference = extreme_logits
    phi, divergence = all_actions(SmoothedKL(POINTS, 1), policy, reference)
    expected_phi, expected = all_actions(KLDivergence("exact"), policy, reference)
    torch.testing.assert_close(phi, expected_phi, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(divergence, expected, rtol=1e-5, atol=1e-6)


def test_smoothing_never_adds_divergence(logits) -> None:
    policy, reference = logits
    _, kl = all_actions(KLDivergence("exact"), policy, reference)
    for temperature in (0.1, 1.0, 10.0):
        _, smoothed = all_actions(SmoothedKL(POINTS, 5, temperature), policy, reference)
        assert bool((smoothed <= kl + 1e-12).all())


def test_moves_among_near_tokens_cost_less_than_moves_to_far_ones() -> None:
    near_and_far = torch.tensor([[1.0, 0.0], [1.0, 0.05], [0.0, 1.0]])
    reference = torch.tensor([[0.0, -8.0, -8.0]])
    to_near, to_far = torch.tensor([[0.0, 0.0, -8.0]]), torch.tensor([[0.0, -8.0, 0.0]])
    action = torch.tensor([0])
    for penalty in (
        SmoothedKL(near_and_far, 3),
        KernelMMD(near_and_far),
        EnergyDistance(near_and_far, 3),
    ):
        near, far = (float(penalty(p, reference, action).divergence) for p in (to_near, to_far))
        assert near < far / 5, penalty.name
    kl = [float(KLDivergence("exact")(p, reference, action).divergence) for p in (to_near, to_far)]
    assert kl[0] == pytest.approx(kl[1])


@pytest.mark.parametrize("cost_type", ["L2", "cos"])
def test_the_energy_distance_is_transport_at_a_large_epsilon(cost_type: str, logits) -> None:
    policy, reference = logits
    transport = SinkhornDivergence(POINTS, VOCABULARY, 1e4, 500, 1e-13, cost_type)
    expected_phi, expected = all_actions(transport, policy, reference)
    penalty = EnergyDistance(POINTS, VOCABULARY, cost_type=cost_type)
    phi, divergence = all_actions(penalty, policy, reference)
    torch.testing.assert_close(divergence, expected, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(phi, expected_phi, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", PENALTIES)
def test_neither_blocks_nor_neighbouring_positions_change_a_result(
    name: str, rng, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, reference = torch.randn(2, 9, VOCABULARY, generator=rng, dtype=torch.float64)
    policy[3] *= 300  # one position that float32's range does not hold
    actions = torch.randint(VOCABULARY, (9,), generator=rng)
    whole = PENALTIES[name](policy, reference, actions)
    for module in ("smoothed_kl", "kernel_mmd", "energy_distance"):
        path = f"dschat.regularization.semantic.{module}.NUMBERS_PER_BLOCK"
        monkeypatch.setattr(path, {"cpu": 2 * VOCABULARY})
    parts = PENALTIES[name](policy, reference, actions)
    torch.testing.assert_close(parts.token, whole.token, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(parts.divergence, whole.divergence, rtol=1e-12, atol=1e-13)
    empty = PENALTIES[name](policy[:0], reference[:0], actions[:0])
    assert empty.token.shape == empty.divergence.shape == (0,)


@pytest.mark.parametrize("name", PENALTIES)
def test_padding_of_the_embedding_table_changes_nothing(name: str, rng) -> None:
    """A table with more rows than there are logits: what would go to them stays in the row."""
    policy, reference = torch.randn(2, 4, VOCABULARY - 2, generator=rng, dtype=torch.float64)
    phi, divergence = all_actions(PENALTIES[name], policy, reference)
    torch.testing.assert_close((policy.softmax(1) * phi).sum(1), divergence)
    assert bool((divergence > 0).all())
    with pytest.raises(ValueError, match="expected an embedding for each"):
        all_actions(PENALTIES[name], torch.zeros(1, 9), torch.zeros(1, 9))


def test_sums_below_float32_are_those_of_float64(rng) -> None:
    """Log-masses down to -2000: beyond the range of float64's exponential too."""
    neighbours = torch.randint(50, (50, 6), generator=rng)
    scores = -10 * torch.rand(50, 6, generator=rng)
    smoothing = TokenSmoothing(neighbours, scores, 50)
    log_masses = -2000 * torch.rand(50, 8, generator=rng)
    dense = torch.zeros(50, 50, dtype=torch.float64)
    dense.scatter_add_(1, smoothing.tokens, smoothing.weights(torch.float64))
    torch.testing.assert_close(dense.sum(1), torch.ones(50, dtype=torch.float64))
    expected = (dense.log().unsqueeze(2) + log_masses.double().unsqueeze(1)).logsumexp(0)
    torch.testing.assert_close(
        smoothing.log_product(log_masses).double(), expected, rtol=1e-6, atol=1e-4
    )


def test_several_references_are_weighted(rng) -> None:
    policy, first, second = torch.randn(3, 4, VOCABULARY, generator=rng, dtype=torch.float64)
    for penalty in PENALTIES.values():
        phi, divergence = all_actions(MultiReference(penalty, [0.3, 0.7]), policy, [first, second])
        torch.testing.assert_close((policy.softmax(1) * phi).sum(1), divergence)
        expected = 0.3 * all_actions(penalty, policy, first)[1]
        expected = expected + 0.7 * all_actions(penalty, policy, second)[1]
        torch.testing.assert_close(divergence, expected)


def test_what_is_out_of_range_is_refused() -> None:
    for make, words in (
        (lambda: SmoothedKL(POINTS, 0), "at least 1"),
        (lambda: SmoothedKL(POINTS, 4, 0.0), "above 0"),
        (lambda: KernelMMD(POINTS, -1.0), "0 or more"),
        (lambda: EnergyDistance(POINTS, 0), "at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    assert "in effect KL" in str(SmoothedKL(POINTS, 4, 1e-3).warning())
    assert SmoothedKL(POINTS, 4, 1.0).warning() is None
