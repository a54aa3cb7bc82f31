"""The Sinkhorn divergence against linear programmes, limits, differences and full transport."""

import math
import warnings

import numpy as np
import pytest
import torch
from dschat.regularization import (
    FDivergence,
    GroundMetric,
    KLDivergence,
    SinkhornDivergence,
    sinkhorn,
)
from dschat.regularization.ground.token_distance import TokenDistance
from dschat.regularization.sinkhorn import NUMBERS_PER_BLOCK
from dschat.regularization.transport.sinkhorn_solver import solve
from dschat.regularization.transport.truncation import truncate
from scipy.optimize import linprog
from scipy.spatial.distance import cdist

VOCABULARY = 8
TIGHT = {"max_iter": 20000, "tol": 1e-11}


@pytest.fixture(autouse=True, params=["shared costs", "blocks of costs"])
def way(request, monkeypatch):
    """Small vocabularies go one way, large ones the other: every test here goes both."""
    if request.param == "blocks of costs":
        monkeypatch.setattr(sinkhorn, "SHARED_COSTS_UP_TO", 0)
    return request.param


def random_embeddings(rng, vocabulary=VOCABULARY):
    return torch.randn(vocabulary, 3, generator=rng, dtype=torch.float64)


def scaled_costs(embeddings, metric="euclidean"):
    """All distances over their mean, [V, V]."""
    costs = cdist(embeddings.numpy(), embeddings.numpy(), metric)
    return torch.from_numpy(costs / (costs.sum() / (len(costs) * (len(costs) - 1))))


def random_pair(rng, n=1, vocabulary=VOCABULARY, spread=1.5):
    return spread * torch.randn(2, n, vocabulary, generator=rng, dtype=torch.float64)


def every_token(regularizer, policy, reference):
    """Token penalties [V] of one position, and its divergence."""
    vocabulary = policy.shape[-1]
    penalty = regularizer(
        policy.expand(vocabulary, -1), reference.expand(vocabulary, -1), torch.arange(vocabulary)
    )
    return penalty.token, penalty.divergence[0]


@pytest.mark.parametrize(("cost_type", "metric"), [("L2", "euclidean"), ("cos", "cosine")])
def test_costs_are_distances_over_their_mean_and_the_tail_is_their_average(cost_type, metric, rng):
    embeddings = random_embeddings(rng)
    expected = scaled_costs(embeddings, metric)
    tokens = torch.tensor([[0, 3, 7], [2, 5, 1]])
    blocks = TokenDistance(GroundMetric(embeddings, cost_type)).block(tokens, torch.float64)
    for ids, block in zip(tokens, blocks, strict=True):
        torch.testing.assert_close(block[:3, :3], expected[ids][:, ids], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(block[3, :3], expected[ids].mean(1), rtol=1e-6, atol=1e-7)
        assert torch.equal(block, block.T)
        assert float(block[3, 3]) == 0.0


def test_truncation_keeps_every_mass_once(rng):
    policy, reference = random_pair(rng, n=20, vocabulary=30, spread=3.0)
    cut = truncate(policy, reference, top_k=6)
    for logits, masses in ((policy, cut.log_policy), (reference, cut.log_reference)):
        probabilities = logits.softmax(-1)
        torch.testing.assert_close(masses.exp().sum(1), torch.ones(20, dtype=torch.float64))
        for row in range(20):
            likely = set(policy[row].topk(6).indices.tolist())
            likely |= set(reference[row].topk(6).indices.tolist())
            actions = torch.arange(30)
            one = type(cut)(*(field[row].expand(30, -1) for field in cut))
            bins = one.bin_of(actions)
            for token in range(30):
                if token in likely:
                    mass = masses[row, bins[token]].exp()
                    torch.testing.assert_close(mass, probabilities[row, token])
                else:
                    assert int(bins[token]) == 12


@pytest.mark.parametrize("epsilon", [0.03, 1.0])
@pytest.mark.parametrize("max_iter", [1, 200])
@pytest.mark.filterwarnings("ignore:transport was not solved")
def test_equal_distributions_give_exactly_zero(epsilon, max_iter, rng):
    policy, _ = random_pair(rng, n=5)
    regularizer = SinkhornDivergence(random_embeddings(rng), 3, epsilon, max_iter)
    penalty = regularizer(policy, policy.clone(), torch.arange(5))
    assert (penalty.token == 0).all()
    assert (penalty.divergence == 0).all()


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
@pytest.mark.parametrize("top_k", [2, VOCABULARY])
@pytest.mark.parametrize("cost_type", ["L2", "cos"])
def test_token_is_the_first_variation_with_mean_divergence(epsilon, top_k, cost_type, rng):
    regularizer = SinkhornDivergence(
        random_embeddings(rng), top_k, epsilon, cost_type=cost_type, **TIGHT
    )
    policy, reference = random_pair(rng)
    pi = policy[0].softmax(0)
    token, divergence = every_token(regularizer, policy, reference)
    assert float(divergence) > 0
    torch.testing.assert_close((pi * token).sum(), divergence, rtol=1e-9, atol=1e-12)
    direction = pi * torch.randn(VOCABULARY, generator=rng, dtype=torch.float64)
    direction -= pi * direction.sum()
    step = 1e-5
    values = [
        every_token(regularizer, (pi + s * direction).log()[None], reference)[1]
        for s in (step, -step)
    ]
    slope = (values[0] - values[1]) / (2 * step)
    torch.testing.assert_close((token * direction).sum(), slope, rtol=1e-4, atol=1e-6)


def linear_programme(p, q, costs):
    size = len(p)
    rows, columns = np.kron(np.eye(size), np.ones(size)), np.kron(np.ones(size), np.eye(size))
    return linprog(
        costs.flatten().numpy(),
        A_eq=np.concatenate([rows, columns]),
        b_eq=torch.cat([p, q]).numpy(),
    ).fun


def test_small_epsilon_is_the_linear_programme(rng):
    embeddings = random_embeddings(rng)
    policy, reference = random_pair(rng)
    exact = linear_programme(
        policy[0].softmax(0), reference[0].softmax(0), scaled_costs(embeddings)
    )
    regularizer = SinkhornDivergence(embeddings, VOCABULARY, 0.005, max_iter=20000, tol=1e-4)
    _, divergence = every_token(regularizer, policy, reference)
    assert float(divergence) == pytest.approx(exact, rel=0.03, abs=0.01)


def test_large_epsilon_is_the_energy_distance(rng):
    embeddings = random_embeddings(rng)
    policy, reference = random_pair(rng)
    difference = policy[0].softmax(0) - reference[0].softmax(0)
    exact = -difference @ scaled_costs(embeddings) @ difference / 2
    regularizer = SinkhornDivergence(embeddings, VOCABULARY, 1e4, **TIGHT)
    _, divergence = every_token(regularizer, policy, reference)
    torch.testing.assert_close(divergence, exact, rtol=1e-3, atol=1e-6)


def entropic_value(p, q, costs, epsilon):
    """min <P, C> + epsilon KL(P || p x q) by scaling in float64, value from the plan itself."""
    gibbs = p[:, None] * q * torch.exp(-costs / epsilon)
    u, v = torch.ones_like(p), torch.ones_like(q)
    for _ in range(20000):
        u = p / (gibbs @ v)
        v = q / (gibbs.T @ u)
    plan = u[:, None] * gibbs * v
    return (plan * costs).sum() + epsilon * (plan * (plan / (p[:, None] * q)).log()).sum()


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
def test_divergence_is_debiased_full_transport(epsilon, rng):
    embeddings = random_embeddings(rng)
    policy, reference = random_pair(rng)
    p, q = policy[0].softmax(0), reference[0].softmax(0)
    costs = scaled_costs(embeddings)
    expected = (
        entropic_value(p, q, costs, epsilon)
        - (entropic_value(p, p, costs, epsilon) + entropic_value(q, q, costs, epsilon)) / 2
    )
    regularizer = SinkhornDivergence(embeddings, VOCABULARY, epsilon, **TIGHT)
    _, divergence = every_token(regularizer, policy, reference)
    torch.testing.assert_close(divergence, expected, rtol=1e-5, atol=1e-8)


def test_near_tokens_cost_less_than_far_ones_which_a_kl_cannot_see():
    """Two policies move the same mass: one to a token near the reference's, one to a far one."""
    embeddings = torch.tensor([[0.0, 0.0], [0.1, 0.0], [3.0, 4.0], [-4.0, 3.0]])
    reference = torch.tensor([[0.97, 0.01, 0.01, 0.01]]).log()
    to_near = torch.tensor([[0.37, 0.61, 0.01, 0.01]]).log()
    to_far = torch.tensor([[0.37, 0.01, 0.61, 0.01]]).log()
    action = torch.tensor([0])
    for blind in (KLDivergence("exact"), FDivergence("js")):
        near, far = (blind(p, reference, action).divergence for p in (to_near, to_far))
        torch.testing.assert_close(near, far)
    transport = SinkhornDivergence(embeddings, 4)
    near, far = (float(transport(p, reference, action).divergence) for p in (to_near, to_far))
    assert 0 < near < far / 10


@pytest.mark.parametrize("epsilon", [1e-3, 0.05, 1e2])
@pytest.mark.parametrize("top_k", [2, 7])
@pytest.mark.filterwarnings("ignore:transport was not solved")
def test_extreme_distributions_stay_finite_and_not_negative(epsilon, top_k, extreme_logits, rng):
    policy, reference = extreme_logits
    regularizer = SinkhornDivergence(torch.randn(7, 3, generator=rng), top_k, epsilon)
    for action in (0, 3, 6):
        penalty = regularizer(policy, reference, torch.full((len(policy),), action))
        assert penalty.token.dtype == torch.float32
        assert torch.isfinite(penalty.token).all()
        assert (penalty.divergence >= -1e-4).all()
        assert all(math.isfinite(value) for value in penalty.metrics.values())


def test_chunks_agree_with_one_call_and_empty_ones_are_finite(rng, monkeypatch):
    monkeypatch.setitem(NUMBERS_PER_BLOCK, "cpu", 3 * 11 * 11)
    policy, reference = random_pair(rng, n=10, vocabulary=40)
    actions = torch.randint(40, (10,), generator=rng)
    regularizer = SinkhornDivergence(random_embeddings(rng, 40), 5, 0.2)
    whole = regularizer(policy, reference, actions)
    pieces = [slice(0, 4), slice(4, 4), slice(4, 10)]
    parts = [regularizer(policy[p], reference[p], actions[p]) for p in pieces]
    for field in ("token", "divergence"):
        joined = torch.cat([getattr(part, field) for part in parts])
        torch.testing.assert_close(joined, getattr(whole, field), rtol=1e-9, atol=1e-11)
    for name, value in whole.metrics.items():
        counts = (4, 0, 6)
        combined = sum(n * part.metrics[name] for n, part in zip(counts, parts, strict=True)) / 10
        assert combined == pytest.approx(value, rel=1e-6), name


def test_it_says_when_it_did_not_converge(rng):
    policy, reference = random_pair(rng, n=4)
    actions = torch.arange(4)
    embeddings = random_embeddings(rng)
    with pytest.warns(UserWarning, match="raise --max_iter"):
        cut_short = SinkhornDivergence(embeddings, 8, 0.01, max_iter=2)(policy, reference, actions)
    assert cut_short.metrics["converged"] < 1
    assert cut_short.metrics["marginal_error"] > 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solved = SinkhornDivergence(embeddings, 8, 0.5)(policy, reference, actions)
    assert solved.metrics["converged"] == 1
    assert solved.metrics["marginal_error"] <= 1e-3


def test_the_solver_is_an_argument(rng):
    shapes = []

    def counted(log_policy, log_reference, costs, max_iter, tol):
        shapes.append(costs.shape)
        return solve(log_policy, log_reference, costs, max_iter, tol)

    policy, reference = random_pair(rng, n=3)
    embeddings, actions = random_embeddings(rng), torch.arange(3)
    given = SinkhornDivergence(embeddings, 8, 0.5, solver=counted)(policy, reference, actions)
    own = SinkhornDivergence(embeddings, 8, 0.5)(policy, reference, actions)
    # All 8 tokens are in both distributions' likeliest: 8 bins and the tail.
    assert shapes == [(3, 9, 9)]
    torch.testing.assert_close(given.token, own.token)


def test_unusable_settings_and_inputs_are_refused(rng):
    embeddings = random_embeddings(rng)
    for option in ({"epsilon": 0.0}, {"top_k": 0}, {"max_iter": 0}, {"tol": 0.0}):
        with pytest.raises(ValueError, match="expected"):
            SinkhornDivergence(embeddings, **option)
    with pytest.raises(ValueError, match="L2, cos"):
        SinkhornDivergence(embeddings, cost_type="L1")
    with pytest.raises(ValueError, match="mean distance 0"):
        SinkhornDivergence(torch.ones(5, 3))
    policy, reference = random_pair(rng, vocabulary=9)
    with pytest.raises(ValueError, match="9 tokens and 8"):
        SinkhornDivergence(embeddings)(policy, reference, torch.tensor([0]))


@pytest.mark.parametrize("step", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("epsilon", [0.03, 0.2])
def test_one_block_of_costs_for_all_positions_gives_what_blocks_of_their_own_give(
    step, epsilon, way
):
    generator = torch.Generator().manual_seed(3)
    points = torch.randn(90, 8, generator=generator)
    reference = 3 * torch.randn(40, 90, generator=generator)
    policy = reference + step * torch.randn(40, 90, generator=generator)
    actions = torch.randint(0, 90, (40,), generator=generator)
    shared = SinkhornDivergence(points, top_k=12, epsilon=epsilon)
    own = SinkhornDivergence(points, top_k=12, epsilon=epsilon, solver=solve)
    assert shared._shares_costs(90, actions) == (way == "shared costs")
    found, expected = (each(policy, reference, actions) for each in (shared, own))
    torch.testing.assert_close(found.token, expected.token, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found.divergence, expected.divergence, atol=2e-5, rtol=1e-4)
    assert found.metrics["bins"] == expected.metrics["bins"] < 25


def test_tokens_of_negligible_mass_join_the_tail_and_change_nothing(rng):
    points = torch.randn(60, 8, generator=rng)
    reference = torch.randn(20, 60, generator=rng)
    reference[:, 10:] -= 20.0  # 50 tokens with some 1e-10 each
    policy = reference + 0.5 * torch.randn(20, 60, generator=rng)
    actions = torch.randint(0, 10, (20,), generator=rng)
    found = SinkhornDivergence(points, 60, tol=1e-4, max_iter=2000)(policy, reference, actions)
    kept = SinkhornDivergence(points.double(), top_k=60, tol=1e-9, max_iter=20000)
    expected = kept(policy.double(), reference.double(), actions)
    assert found.metrics["bins"] == 11
    assert expected.metrics["bins"] == 61
    torch.testing.assert_close(found.divergence.double(), expected.divergence, atol=2e-4, rtol=1e-2)
    torch.testing.assert_close(found.token.double(), expected.token, atol=2e-3, rtol=1e-2)


def test_what_moves_within_the_tail_is_a_metric_with_a_warning(rng):
    """The tail keeps its mass, but holds it on half of its tokens: no bin shows that."""
    points = torch.randn(40, 8, generator=rng)
    reference = torch.full((3, 40), 0.3 / 36)
    reference[:, :4] = 0.7 / 4
    policy = reference.clone()
    policy[:, 4:22], policy[:, 22:] = 0.3 / 18, 0.0
    regularizer, actions = SinkhornDivergence(points, 4, 0.2), torch.tensor([0, 1, 2])
    with pytest.warns(UserWarning, match="15.0% of the policy's mass .* raise --top_k"):
        found = regularizer(policy.log(), reference.log(), actions)
    assert found.metrics["tail_drift"] == pytest.approx(0.15, abs=1e-6)
    assert found.divergence.max() < 1e-6
    # What the tail gains as a whole is seen, and a tail that only grows does not drift.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        regularizer(policy.log(), reference.log(), actions)  # chunk after chunk: said once
        policy[:, :4], policy[:, 4:] = 0.5 / 4, 0.5 / 36
        grown = regularizer(policy.log(), reference.log(), actions)
    assert grown.metrics["tail_drift"] == pytest.approx(0, abs=1e-6)
    assert grown.divergence.min() > 1e-3
