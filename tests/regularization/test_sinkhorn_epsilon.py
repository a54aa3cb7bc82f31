"""The default epsilon of the Sinkhorn divergence, on tables that lie as those of real models do."""

from types import SimpleNamespace

import pytest
import torch
from dschat.regularization import SinkhornDivergence, regularizer_from_config
from scipy.spatial.distance import cdist

VOCABULARY, DIMENSION = 600, 24
POSITIONS = 48


@pytest.fixture(scope="module")
def table() -> torch.Tensor:
    """[V, D]: the nearest token at 0.6 of the mean distance, as in SmolLM2 (0.60) and Gemma 3."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(VOCABULARY, DIMENSION, generator=generator)


def nearest_over_mean(points: torch.Tensor, metric: str = "euclidean") -> float:
    costs = torch.from_numpy(cdist(points.double().numpy(), points.double().numpy(), metric))
    mean = float(costs.sum()) / (len(costs) * (len(costs) - 1))
    return float(costs.fill_diagonal_(torch.inf).amin(1).median()) / mean


def rms_of_phi(regularizer: SinkhornDivergence, vocabulary: int, noise: float) -> float:
    """Root mean square of phi at sampled tokens, Zipf-like logits with independent noise."""
    generator = torch.Generator().manual_seed(1)
    rank = 1 + torch.randperm(vocabulary, generator=generator)
    reference = 2 * torch.randn(POSITIONS, vocabulary, generator=generator) - rank.log()
    policy = reference + noise * torch.randn(POSITIONS, vocabulary, generator=generator)
    actions = policy.softmax(1).multinomial(1, generator=generator).squeeze(1)
    return float(regularizer(policy, reference, actions).token.square().mean().sqrt())


@pytest.mark.parametrize(("cost_type", "metric"), [("L2", "euclidean"), ("cos", "cosine")])
def test_the_default_is_a_third_of_the_nearest_cost(table, cost_type, metric):
    expected = nearest_over_mean(table, metric)
    assert cost_type == "cos" or 0.55 < expected < 0.65
    regularizer = SinkhornDivergence(table, cost_type=cost_type)
    # The median is one of some 500 tokens.
    assert regularizer.epsilon == pytest.approx(expected / 3, rel=0.05)
    figures = regularizer.diagnose()
    assert figures["nearest_cost_over_epsilon"] == pytest.approx(3)
    assert figures["median_nearest_cost"] == pytest.approx(3 * regularizer.epsilon)
    assert regularizer.warning() is None


def test_it_is_0_05_at_least():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(60, DIMENSION, generator=generator).repeat_interleave(2, 0)
    twins = centres + 0.01 * torch.randn(120, DIMENSION, generator=generator)
    assert nearest_over_mean(twins) < 0.02
    assert SinkhornDivergence(twins).epsilon == 0.05


def test_rows_that_are_no_tokens_do_not_spoil_it(table):
    alone = SinkhornDivergence(table)
    padding = [torch.zeros(900, DIMENSION), table[:1].repeat(50, 1) + 3.0]
    padded = SinkhornDivergence(torch.cat([table, *padding]))
    # Another sample of the same tokens.
    assert padded.epsilon == pytest.approx(alone.epsilon, rel=0.03)
    assert padded.distance.mean == pytest.approx(alone.distance.mean, rel=0.02)


def test_the_penalty_goes_to_0_with_the_noise_at_the_default_and_not_far_below_it(table):
    default = SinkhornDivergence(table)
    little, some, much = (rms_of_phi(default, VOCABULARY, noise) for noise in (0.01, 0.1, 1.0))
    assert little < some / 5 < much / 10
    assert little < much / 30
    small = SinkhornDivergence(table, epsilon=0.05)
    # Total variation in disguise: half its size is there at once.
    assert rms_of_phi(small, VOCABULARY, 0.01) > rms_of_phi(small, VOCABULARY, 1.0) / 2


def test_an_epsilon_far_below_the_distances_is_warned_about(table):
    warning = SinkhornDivergence(table, epsilon=0.05).warning()
    assert warning is not None
    assert "13 times epsilon" in warning
    assert "Leave --epsilon unset (0.21 here)" in warning


def test_what_the_figures_say_is_logged(table):
    regularizer = SinkhornDivergence(table, epsilon=0.3)
    logits = torch.zeros(2, VOCABULARY)
    metrics = regularizer(logits, logits, torch.tensor([0, 1])).metrics
    expected = nearest_over_mean(table) / 0.3
    assert metrics["nearest_cost_over_epsilon"] == pytest.approx(expected, rel=0.05)


def test_a_configuration_without_epsilon_gets_the_default(table):
    for epsilon, expected in ((None, SinkhornDivergence(table).epsilon), (0.3, 0.3)):
        config = SimpleNamespace(
            regularizer="wasserstein", transport="sinkhorn_divergence", epsilon=epsilon
        )
        built = regularizer_from_config(config, token_embeddings=table)
        assert isinstance(built, SinkhornDivergence)
        assert built.epsilon == expected
