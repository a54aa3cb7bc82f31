"""What the user is told about the penalty: judged by its numbers, not by one figure of a table."""

import pytest
import torch
from dschat.regularization import FDivergence, KLDivergence, MultiReference, TruncatedWasserstein
from dschat.regularization.diagnosis import length_report, sees_no_distances

OPTIONS = {"top_k": 5, "eos_token_id": 1}


def axes(count: int, distance: float) -> torch.Tensor:
    """Points of which any two are so far apart."""
    return torch.eye(count) * distance / 2**0.5


def with_twins(count: int, twin: float, far: float) -> torch.Tensor:
    """Every point has one other `twin` away, all else is `far`."""
    points = torch.cat([axes(count // 2, far), torch.zeros(count // 2, 1)], dim=1)
    others = points.clone()
    others[:, -1] = twin
    return torch.cat([points, others])


def test_a_table_of_twins_is_not_the_identity():
    epsilon = 0.01
    penalty = TruncatedWasserstein(with_twins(200, 1.7 * epsilon, 10.0), 100, epsilon=epsilon)
    diagnosis = penalty.diagnose()
    assert diagnosis["kernel_share_above_1e-16"] == pytest.approx(0.01)
    assert diagnosis["coupled_tokens"] == 1.0
    assert diagnosis["nearest_cost_over_epsilon"] == pytest.approx(1.7, rel=1e-3)
    assert penalty.warning() is None


def test_costs_of_thirty_epsilon_are_the_identity(rng):
    epsilon = 0.1
    penalty = TruncatedWasserstein(axes(80, 30 * epsilon), 60, epsilon=epsilon, **OPTIONS)
    assert penalty.diagnose()["kernel_share_above_1e-16"] == 1.0
    assert penalty.diagnose()["coupled_tokens"] == 0.0
    assert "for 100% of the tokens" in penalty.warning()
    reference = torch.randn(9, 80, generator=rng)
    near = reference + 0.1 * torch.randn(9, 80, generator=rng)
    found = penalty(near, reference, torch.randint(80, (9,), generator=rng))
    assert sees_no_distances({f"penalty/{k}": v for k, v in found.metrics.items()})


@pytest.mark.parametrize("copy", [0.0, 1.0])
def test_unused_rows_do_not_count(copy, rng):
    tokens = torch.randn(120, 8, generator=rng)
    alone = TruncatedWasserstein(tokens, 50, epsilon=0.01)
    padded = TruncatedWasserstein(torch.cat([tokens, torch.full((180, 8), copy)]), 50, epsilon=0.01)
    for name in ("median_nearest_cost", "nearest_cost_over_epsilon", "coupled_tokens"):
        assert padded.diagnose()[name] == pytest.approx(alone.diagnose()[name], rel=1e-4)
    assert "take sinkhorn_divergence" in padded.warning()


def test_the_warning_does_not_send_the_user_to_a_larger_epsilon(rng):
    words = TruncatedWasserstein(torch.randn(60, 8, generator=rng), 20, epsilon=1e-3).warning()
    assert "raise --epsilon" not in words
    assert "0.009 times the coefficient" in words  # epsilon (max_iter - 1)


def test_distance_effect_is_the_difference_to_the_identity(rng):
    logits = torch.randn(2, 30, 50, generator=rng, dtype=torch.float64)
    actions = torch.randint(2, 50, (30,), generator=rng)
    points = torch.randn(50, 6, generator=rng)
    near = TruncatedWasserstein(points, 20, epsilon=0.8, **OPTIONS)
    alone = TruncatedWasserstein(1e4 * points, 20, epsilon=0.8, **OPTIONS)
    found, identity = near(*logits, actions), alone(*logits, actions)
    expected = (found.token - identity.token).abs().mean() / 0.8
    assert found.metrics["distance_effect"] == pytest.approx(float(expected), rel=1e-6)
    assert identity.metrics["distance_effect"] == pytest.approx(0.0, abs=1e-9)


def test_identical_logits_show_the_potential_to_come(rng):
    """At the first iteration the policy is the reference: the rule's 0 says nothing of the rest."""
    logits = torch.randn(8, 50, generator=rng, dtype=torch.float64)
    actions = torch.randint(2, 50, (8,), generator=rng)
    penalty = TruncatedWasserstein(torch.randn(50, 6, generator=rng), 20, epsilon=0.8, **OPTIONS)
    now = penalty(logits, logits.clone(), actions)
    soon = penalty(logits, logits + 1e-9, actions)
    assert (now.token == 0).all()
    assert now.metrics["expected_potential"] == pytest.approx(soon.metrics["expected_potential"])
    assert now.metrics["expected_potential"] < -0.1


def metrics(**values: float) -> dict[str, float]:
    return {"token_penalty": 1.0, "response_length": 75.0, "reward_std": 0.035, **values}


def test_the_report_gives_the_bonus_in_this_models_numbers():
    words = length_report(metrics(**{"penalty/expected_potential": -1.99}), 0.01)
    assert words.startswith("WARNING")
    assert "pays 0.02 per token, 1.5 per response of 75 tokens" in words
    assert "0.035" in words
    assert "longer responses" in words
    assert "Take sinkhorn_divergence" in words
    charged = length_report(metrics(**{"penalty/expected_potential": 11.0}), 0.01)
    assert "charges 0.11 per token, 8.2 per response" in charged
    assert "shorter responses" in charged
    small = length_report(metrics(**{"penalty/expected_potential": -0.001}), 0.01)
    assert not small.startswith("WARNING")
    first = metrics(**{"penalty/expected_potential": -1.0, "token_penalty": 0.0})
    assert "This iteration's penalty is 0" in length_report(first, 0.01)


def test_several_references_are_reported_by_their_weights(rng):
    points = torch.randn(50, 6, generator=rng)
    several = MultiReference(TruncatedWasserstein(points, 20, epsilon=0.8), [0.25, 0.75])
    found = metrics(
        **{"penalty/expected_potential/ref_0": -1.0, "penalty/expected_potential/ref_1": -2.0}
    )
    assert "is -1.75:" in several.first_report(found, 0.01)
    assert MultiReference(KLDivergence(), [1.0]).first_report(found, 0.01) is None
    effects = {"penalty/distance_effect/ref_0": 1e-5, "penalty/distance_effect/ref_1": 0.5}
    assert not sees_no_distances(effects)
    assert sees_no_distances({name: 1e-3 for name in effects})
    assert not sees_no_distances({"penalty/log_ratio": 0.0})


def policy_gradient_cosine(penalty: FDivergence, drift: float) -> float:
    """Between E[grad log pi phi], by enumeration, and autograd's gradient of D; mean of rows."""
    generator = torch.Generator().manual_seed(1)
    reference, noise = torch.randn(2, 40, 16, generator=generator, dtype=torch.float64)
    logits = (reference + drift * noise).requires_grad_()
    pi, rho = logits.softmax(1), reference.softmax(1)
    divergences = {
        "fkl": (rho * (rho / pi).log()).sum(1),
        "rkl": (pi * (pi / rho).log()).sum(1),
        "tv": (pi - rho).abs().sum(1) / 2,
        "js": (pi * (2 * pi / (pi + rho)).log() + rho * (2 * rho / (pi + rho)).log()).sum(1),
        "chi": ((pi - rho).square() / rho).sum(1),
        "alpha": 4 * (1 - (pi * rho).sqrt().sum(1)),
    }
    (expected,) = torch.autograd.grad(divergences[penalty.name].sum(), logits)
    rows, vocabulary = logits.shape
    every = [each.detach().repeat_interleave(vocabulary, 0) for each in (logits, reference)]
    actions = torch.arange(vocabulary).repeat(rows)
    phi = penalty(*every, actions).token.reshape(rows, vocabulary)
    weight = pi.detach() * phi
    found = weight - pi.detach() * weight.sum(1, keepdim=True)
    return float(torch.cosine_similarity(found, expected, dim=1).mean())


@pytest.mark.parametrize("name", ["rkl", "fkl", "js", "alpha", "tv", "chi"])
@pytest.mark.parametrize("low_variance", [False, True])
def test_value_forms_say_what_their_gradient_is(name, low_variance):
    if low_variance and name not in ("rkl", "fkl"):
        return
    penalty = FDivergence(name, low_variance=low_variance)
    words, cosine = penalty.warning() or "", policy_gradient_cosine(penalty, 0.01)
    assert ("is the opposite" in words) == (cosine < -0.9)
    assert ("orthogonal" in words) == (abs(cosine) < 0.1)
    assert (words == "") == (cosine > 0.99)
    assert ("points away" in words) == ("orthogonal" in words and far_cosine(penalty) < -0.2)
    assert ("--f_div_form gradient" in words) == (words != "")
    gradient = FDivergence(name, form="gradient")
    assert gradient.warning() is None
    assert policy_gradient_cosine(gradient, 0.01) > 0.999


def far_cosine(penalty: FDivergence) -> float:
    return policy_gradient_cosine(penalty, 2.0)
