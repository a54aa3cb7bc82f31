"""The published Wasserstein penalty: published values, limits, chunks and diagnostics."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from dschat.regularization import TruncatedWasserstein
from dschat.regularization.transport.kernel_operators import DenseKernel, GatheredKernel
from scipy.optimize import linprog

VECTORS = sorted(Path(__file__).parents[1].glob("vectors/wasserstein_published_*.npz"))


def load(path):
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored if name != "params"}
        settings = json.loads(str(stored["params"]))
    return arrays, settings.pop("start"), {k: v for k, v in settings.items() if k != "ends"}


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_token_is_the_published_potential(path, dtype):
    arrays, start, settings = load(path)
    active, actions = arrays["active"], arrays["actions"]
    policy, reference = (arrays[f"{m}_logits"][active].to(dtype) for m in ("policy", "reference"))
    regularizer = TruncatedWasserstein(arrays["embeddings"], **settings)
    support = regularizer.collect_support(policy, reference, actions[:, start:])
    penalty = regularizer(policy, reference, actions[active], support)
    expected = arrays["f"][active]
    assert penalty.token.dtype == dtype
    error = (penalty.token - expected).abs().max() / expected.abs().max()
    assert error < 1e-5
    assert torch.isfinite(penalty.divergence).all()
    assert (penalty.divergence >= 0).all()


def test_there_are_published_values():
    assert len(VECTORS) == 4


def make(rng, vocabulary=50, **options):
    embeddings = torch.randn(vocabulary, 6, generator=rng)
    settings = {"cost_dim": 8, "top_k": 5, "epsilon": 0.8, "eos_token_id": 1, "pad_token_id": 0}
    return TruncatedWasserstein(embeddings, **{**settings, **options})


def random_rows(rng, n=12, vocabulary=50, dtype=torch.float32):
    policy, reference = 2 * torch.randn(2, n, vocabulary, generator=rng, dtype=dtype)
    return policy, reference, torch.randint(2, vocabulary, (n,), generator=rng)


def test_support_holds_the_likely_tokens_the_given_ones_and_the_end(rng):
    policy, reference, actions = random_rows(rng, n=3)
    policy[:, 0] = 50.0  # padding is the likeliest token of all
    support = make(rng).collect_support(policy, reference, actions)
    expected = {1, *actions.tolist()}
    for row in (*policy, *reference):
        expected |= set(row.argsort(descending=True)[:5].tolist())
    assert support.tolist() == sorted(expected - {0})


@pytest.mark.parametrize("cost_dim", [3, 49])
def test_chunks_over_one_support_give_the_same_as_one_call(cost_dim, rng):
    policy, reference, actions = random_rows(rng, n=70)
    regularizer = make(rng, cost_dim=cost_dim)
    whole = regularizer(policy, reference, actions)
    pieces = [slice(0, 30), slice(30, 30), slice(30, 31), slice(31, 70)]
    support = None
    for piece in pieces:
        support = regularizer.collect_support(
            policy[piece], reference[piece], actions[piece], support
        )
    parts = [regularizer(policy[p], reference[p], actions[p], support) for p in pieces]
    for field in ("token", "divergence"):
        joined = torch.cat([getattr(part, field) for part in parts])
        torch.testing.assert_close(joined, getattr(whole, field), rtol=1e-4, atol=1e-5)
    for name, value in whole.metrics.items():
        counts = (30, 0, 1, 39)
        combined = sum(n * part.metrics[name] for n, part in zip(counts, parts, strict=True)) / 70
        assert combined == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_no_positions_and_no_support_are_no_error():
    regularizer = TruncatedWasserstein(torch.randn(1000, 4), cost_dim=5)
    assert not regularizer.table.is_whole
    nothing = torch.empty(0, 1000)
    penalty = regularizer(nothing, nothing, torch.empty(0, dtype=torch.int64))
    assert penalty.token.shape == penalty.divergence.shape == (0,)


def test_kernel_storage_follows_epsilon_and_is_built_once_per_support(rng):
    policy, reference, actions = random_rows(rng, n=20)
    expected = {1e-6: type(None), 0.8: GatheredKernel}
    for epsilon, storage in expected.items():
        regularizer = make(rng, epsilon=epsilon, cost_dim=2)
        regularizer(policy, reference, actions)
        kernel = regularizer._last_kernel
        assert isinstance(kernel.operator, storage)
        regularizer(policy, reference, actions)
        assert regularizer._last_kernel is kernel
    full = make(rng, cost_dim=49)
    full(policy, reference, actions)
    assert isinstance(full._last_kernel.operator, DenseKernel)


def test_diagonal_regime_is_a_rescaled_log_ratio_and_says_so(rng):
    policy, reference, actions = random_rows(rng, dtype=torch.float64)
    # Ratios near 1 keep u and v far from the iteration's constant 1e-16.
    policy, reference = 0.15 * policy, 0.15 * reference
    regularizer = make(rng, epsilon=1e-3, max_iter=10)
    penalty = regularizer(policy, reference, actions)
    rows = torch.arange(len(actions))
    log_pi, log_rho = (
        policy.log_softmax(-1)[rows, actions],
        reference.log_softmax(-1)[rows, actions],
    )
    closed_form = 1e-3 * (log_pi + 9 * (log_pi - log_rho))
    torch.testing.assert_close(penalty.token, closed_form, rtol=1e-4, atol=1e-7)
    assert regularizer.diagnose()["kernel_share_above_1e-16"] == 0.0
    assert penalty.metrics["kernel_share_above_1e-16"] == 0.0
    assert "--epsilon" in regularizer.warning()
    assert make(rng).warning() is None


def entropic_transport(p, q, costs, epsilon):
    """min <P, C> - epsilon H(P) by log-domain iteration to convergence; returns value, <P, C>."""
    f, g = torch.zeros_like(p), torch.zeros_like(q)
    for _ in range(3000):
        f = epsilon * (p.log() - ((g - costs) / epsilon).logsumexp(1))
        g = epsilon * (q.log() - ((f[:, None] - costs) / epsilon).logsumexp(0))
    log_plan = (f[:, None] + g - costs) / epsilon
    plan = log_plan.exp()
    assert (plan.sum(1) - p).abs().max() < 1e-8
    return (plan * costs).sum() + epsilon * (plan * log_plan).sum(), (plan * costs).sum()


def test_without_truncation_it_is_entropic_transport(rng):
    """All neighbours and all tokens kept: feasible, so the iteration must solve the problem."""
    vocabulary, epsilon = 8, 0.5
    embeddings = torch.randn(vocabulary, 3, generator=rng)
    regularizer = TruncatedWasserstein(
        embeddings, cost_dim=vocabulary, top_k=vocabulary, epsilon=epsilon, max_iter=3000, tol=0.0
    )
    policy, reference = torch.randn(2, vocabulary, generator=rng, dtype=torch.float64)
    p, q = policy.softmax(0), reference.softmax(0)
    costs = torch.cdist(embeddings.double(), embeddings.double())
    rows = [each.expand(vocabulary, -1) for each in (policy, reference)]
    penalty = regularizer(*rows, torch.arange(vocabulary))
    assert penalty.metrics["marginal_error"] < 1e-6
    _, transport_cost = entropic_transport(p, q, costs, epsilon)
    torch.testing.assert_close(penalty.divergence[0], transport_cost, rtol=1e-5, atol=1e-7)
    direction = p * torch.randn(vocabulary, generator=rng, dtype=torch.float64)
    direction -= p * direction.sum()
    step = 1e-4
    values = [entropic_transport(p + s * direction, q, costs, epsilon)[0] for s in (step, -step)]
    slope = (values[0] - values[1]) / (2 * step)
    torch.testing.assert_close((penalty.token * direction).sum(), slope, rtol=1e-4, atol=1e-6)


def test_without_truncation_the_cost_is_near_the_linear_programme(rng):
    """Entropy costs at most epsilon times the smaller entropy of the two distributions."""
    vocabulary, epsilon = 6, 0.1
    embeddings = 0.4 * torch.randn(vocabulary, 3, generator=rng)
    policy, reference = torch.randn(2, 1, vocabulary, generator=rng, dtype=torch.float64)
    costs = torch.cdist(embeddings.double(), embeddings.double())
    marginals = np.concatenate(
        [
            np.kron(np.eye(vocabulary), np.ones(vocabulary)),
            np.kron(np.ones(vocabulary), np.eye(vocabulary)),
        ]
    )
    p, q = policy[0].softmax(0), reference[0].softmax(0)
    exact = linprog(costs.flatten().numpy(), A_eq=marginals, b_eq=torch.cat([p, q]).numpy()).fun
    regularizer = TruncatedWasserstein(
        embeddings, vocabulary, vocabulary, epsilon=epsilon, max_iter=5000, tol=0.0
    )
    penalty = regularizer(policy, reference, torch.tensor([0]))
    assert penalty.metrics["marginal_error"] < 1e-4
    entropy = min(float(-(each * each.log()).sum()) for each in (p, q))
    assert exact - 1e-4 <= float(penalty.divergence) <= exact + epsilon * entropy + 1e-4


def test_identical_logits_give_no_penalty(rng):
    policy, reference, actions = random_rows(rng)
    same = make(rng)(policy, policy.clone(), actions)
    assert (same.token == 0).all()
    assert (same.divergence == 0).all()
    assert (make(rng)(policy, reference, actions).token != 0).any()


def test_tokens_outside_a_given_support_get_the_tail(rng):
    """The tail is tied to nothing else, so that its potential has a closed form."""
    policy, reference = 0.5 * torch.randn(2, 1, 50, generator=rng, dtype=torch.float64)
    support = torch.cat([torch.arange(1, 20), torch.arange(45, 48)])
    outside = torch.ones(50, dtype=torch.bool)
    outside[support] = False
    pi, rho = (logits[0].softmax(0)[outside].sum() for logits in (policy, reference))
    expected = 0.8 * (pi.log() + 9 * (pi / rho).log())
    rows = [logits.expand(3, -1) for logits in (policy, reference)]
    penalty = make(rng)(*rows, torch.tensor([0, 30, 49]), support)
    torch.testing.assert_close(penalty.token, expected.expand(3), rtol=1e-6, atol=1e-9)
    assert penalty.metrics["tail_mass"] == pytest.approx(float(pi + rho) / 2)


@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"epsilon": 1e-3}, {"cost_dim": 49}])
def test_extreme_distributions_stay_finite(options, extreme_logits, rng):
    policy, reference = extreme_logits
    regularizer = make(rng, vocabulary=7, **options)
    penalty = regularizer(policy, reference, torch.zeros(len(policy), dtype=torch.int64))
    assert torch.isfinite(penalty.token).all()
    assert torch.isfinite(penalty.divergence).all()
    assert all(math.isfinite(value) for value in penalty.metrics.values())


def test_unusable_settings_and_inputs_are_refused(rng):
    for option in ({"epsilon": 0.0}, {"top_k": 0}, {"max_iter": 0}, {"cost_dim": 0}, {"tol": -1}):
        with pytest.raises(ValueError, match="expected"):
            make(rng, **option)
    policy, reference, actions = random_rows(rng, vocabulary=60)
    with pytest.raises(ValueError, match="60 tokens and 50"):
        make(rng)(policy, reference, actions)
    policy, reference, actions = random_rows(rng)
    for support in (torch.tensor([3, 2]), torch.tensor([2, 2]), torch.tensor([2, 50])):
        with pytest.raises(ValueError, match="given a support"):
            make(rng)(policy, reference, actions, support)
