"""KL and f-divergences against scipy, their defining sums and finite differences."""

import math

import numpy as np
import pytest
import torch
from dschat.regularization import FDivergence, KLDivergence
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr

NAMES = ["rkl", "fkl", "js", "alpha", "tv", "chi"]
ALPHA = 0.3

# The convex functions f(x), from which everything below follows.
F = {
    "rkl": lambda x: x * np.log(x),
    "fkl": lambda x: -np.log(x),
    "js": lambda x: x * np.log(x) - (x + 1) * np.log((x + 1) / 2),
    "alpha": lambda x: (x ** (1 - ALPHA) - (1 - ALPHA) * x - ALPHA) / (ALPHA * (ALPHA - 1)),
    "tv": lambda x: np.abs(x - 1) / 2,
    "chi": lambda x: (x - 1) ** 2,
}
REGULARIZERS = [
    *[FDivergence(name, alpha=ALPHA, form="gradient") for name in NAMES],
    KLDivergence("exact"),
]


def identify(regularizer):
    return f"{type(regularizer).__name__}-{regularizer.name}"


def every_token(regularizer, policy_row, reference_row):
    """Token penalties of all V tokens of one position, and its divergence."""
    vocabulary = len(policy_row)
    penalty = regularizer(
        policy_row.expand(vocabulary, -1),
        reference_row.expand(vocabulary, -1),
        torch.arange(vocabulary),
    )
    return penalty.token, penalty.divergence


@pytest.mark.parametrize("name", NAMES)
def test_divergence_is_its_closed_form(name, logits):
    policy, reference = logits
    pi, rho = policy.softmax(-1).numpy(), reference.softmax(-1).numpy()
    scipy_values = {
        "rkl": rel_entr(pi, rho).sum(-1),
        "fkl": rel_entr(rho, pi).sum(-1),
        "js": 2 * jensenshannon(pi, rho, axis=-1) ** 2,
    }
    expected = scipy_values.get(name, (rho * F[name](pi / rho)).sum(-1))
    actions = torch.zeros(len(policy), dtype=torch.int64)
    for form in ("value", "gradient"):
        penalty = FDivergence(name, ALPHA, form)(policy, reference, actions)
        np.testing.assert_allclose(penalty.divergence, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_value_form_is_f_over_x_at_the_token(name, logits):
    policy, reference = logits
    actions = torch.randint(policy.shape[1], (len(policy),))
    penalty = FDivergence(name, ALPHA, "value")(policy, reference, actions)
    rows = torch.arange(len(policy))
    x = (policy.softmax(-1) / reference.softmax(-1))[rows, actions].numpy()
    np.testing.assert_allclose(penalty.token, F[name](x) / x, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("name", "sign"), [("rkl", 1), ("fkl", -1)])
def test_low_variance_term_has_mean_zero_under_the_policy(name, sign, logits):
    policy, reference = logits[0][0], logits[1][0]
    plain, _ = every_token(FDivergence(name), policy, reference)
    lowered, _ = every_token(FDivergence(name, low_variance=True), policy, reference)
    rho_over_pi = reference.softmax(-1) / policy.softmax(-1)
    torch.testing.assert_close(lowered - plain, sign * (rho_over_pi - 1))
    mean = (policy.softmax(-1) * (lowered - plain)).sum()
    assert abs(float(mean)) < 1e-9


@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=identify)
def test_mean_of_the_gradient_form_is_the_divergence(regularizer, logits):
    for policy, reference in zip(*logits, strict=True):
        token, divergence = every_token(regularizer, policy, reference)
        mean = (policy.softmax(-1) * token).sum()
        torch.testing.assert_close(mean, divergence[0], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=identify)
def test_gradient_form_is_the_first_variation(regularizer, rng):
    policy, reference = torch.randn(2, 7, generator=rng, dtype=torch.float64)
    direction = torch.randn(7, generator=rng, dtype=torch.float64)
    pi = policy.softmax(-1)
    direction = direction * pi
    direction = direction - pi * direction.sum()  # keeps pi a distribution
    step = 1e-6
    moved = [
        every_token(regularizer, (pi + s * direction).log(), reference)[1][0] for s in (step, -step)
    ]
    slope = (moved[0] - moved[1]) / (2 * step)
    token, _ = every_token(regularizer, policy, reference)
    torch.testing.assert_close((token * direction).sum(), slope, rtol=1e-5, atol=1e-8)


def test_estimators_change_the_divergence_and_not_the_token(rng):
    policy, reference = torch.randn(2, 5, 7, generator=rng, dtype=torch.float64)
    actions = torch.randint(7, (5,), generator=rng)
    rows = torch.arange(5)
    ratio = (policy.softmax(-1) / reference.softmax(-1))[rows, actions]
    expected = {
        "k1": ratio.log(),
        "k2": ratio.log() ** 2 / 2,
        "k3": 1 / ratio - 1 + ratio.log(),
        "exact": torch.from_numpy(
            rel_entr(policy.softmax(-1).numpy(), reference.softmax(-1).numpy()).sum(-1)
        ),
    }
    for estimator, divergence in expected.items():
        penalty = KLDivergence(estimator)(policy, reference, actions)
        torch.testing.assert_close(penalty.token, ratio.log())
        torch.testing.assert_close(penalty.divergence, divergence)


@pytest.mark.parametrize(
    "regularizer",
    [
        *REGULARIZERS,
        *[FDivergence(name) for name in NAMES],
        FDivergence("rkl", low_variance=True),
        FDivergence("fkl", low_variance=True),
        *[KLDivergence(estimator) for estimator in ("k1", "k2", "k3")],
    ],
    ids=identify,
)
def test_impossible_tokens_stay_finite(regularizer, extreme_logits):
    policy, reference = extreme_logits
    for action in (0, 3, 6):
        actions = torch.full((len(policy),), action)
        penalty = regularizer(policy, reference, actions)
        assert penalty.token.dtype == penalty.divergence.dtype == torch.float32
        # The square must be finite too: advantages are divided by their standard deviation.
        assert torch.isfinite(penalty.divergence).all()
        if regularizer.reward_clip is None:
            assert torch.isfinite(penalty.token.square()).all()
        assert all(math.isfinite(value) for value in penalty.metrics.values())


def test_disjoint_distributions_have_the_largest_bounded_divergences():
    left = torch.tensor([[0.0, 0.0, -torch.inf, -torch.inf]])
    actions = torch.tensor([0])
    largest = {"js": 2 * math.log(2), "tv": 1.0, "alpha": 1 / (ALPHA * (1 - ALPHA))}
    for name, value in largest.items():
        penalty = FDivergence(name, ALPHA)(left, left.flip(1), actions)
        assert float(penalty.divergence) == pytest.approx(value, rel=1e-6)


def test_chunks_agree_with_one_call_and_empty_ones_are_finite(rng):
    policy, reference = torch.randn(2, 6, 7, generator=rng)
    actions = torch.randint(7, (6,), generator=rng)
    for regularizer in REGULARIZERS:
        whole = regularizer(policy, reference, actions)
        parts = [
            regularizer(policy[i], reference[i], actions[i])
            for i in (slice(0, 2), slice(2, 2), slice(2, 6))
        ]
        torch.testing.assert_close(torch.cat([part.token for part in parts]), whole.token)
        assert parts[1].token.shape == parts[1].divergence.shape == (0,)
        for name, value in whole.metrics.items():
            combined = sum(n * part.metrics[name] for n, part in zip((2, 0, 4), parts, strict=True))
            assert combined / 6 == pytest.approx(value, abs=1e-6)


def test_only_the_value_form_is_clipped():
    assert FDivergence("js").reward_clip == 2.5
    assert FDivergence("js", form="gradient").reward_clip is None
    assert KLDivergence().reward_clip is None


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FDivergence("kl2"), "rkl, fkl, js, alpha, tv, chi"),
        (lambda: FDivergence("js", form="grad"), "value, gradient"),
        (lambda: FDivergence("alpha", alpha=1.0), "strictly between 0 and 1"),
        (lambda: FDivergence("js", low_variance=True), "rkl or fkl"),
        (lambda: FDivergence("rkl", form="gradient", low_variance=True), "value form"),
        (lambda: KLDivergence("k4"), "k1, k2, k3, exact"),
    ],
)
def test_unusable_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("policy", "reference", "actions", "message"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.int64), "N, V"),
        (torch.zeros(2, 4), torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64), "vocabulary"),
        (torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(3, dtype=torch.int64), "one sampled"),
        (torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(2), "int64"),
        (torch.zeros(2, 4), torch.zeros(2, 4), torch.tensor([0, 4]), "from 0 to 4"),
        (torch.zeros(2, 4), [torch.zeros(2, 4)], torch.tensor([0, 1]), "MultiReference"),
        (torch.full((2, 4), torch.nan), torch.zeros(2, 4), torch.tensor([0, 1]), "2 of 2"),
    ],
)
def test_unusable_inputs_are_refused(policy, reference, actions, message):
    with pytest.raises(ValueError, match=message):
        KLDivergence()(policy, reference, actions)
