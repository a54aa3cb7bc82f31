"""What the published Wasserstein penalty says of a real embedding table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dschat.regularization.wasserstein import TruncatedWasserstein
from safetensors import safe_open


@pytest.fixture(scope="module")
def embeddings(smollm2: Path) -> torch.Tensor:
    with safe_open(smollm2 / "model.safetensors", "pt") as file:
        return file.get_tensor("model.embed_tokens.weight").float()


def nearest(embeddings: torch.Tensor, count: int) -> torch.Tensor:
    """Distances to the nearest other token, of random tokens, in float64."""
    chosen = torch.randperm(len(embeddings), generator=torch.Generator().manual_seed(5))[:count]
    points = embeddings.double()
    norms = points.square().sum(1)
    squared = norms[chosen, None] + norms - 2 * points[chosen] @ points.T
    squared[torch.arange(count), chosen] = torch.inf
    return squared.min(dim=1).values.sqrt()


def test_the_nearest_token_lies_two_hundred_epsilon_away(embeddings: torch.Tensor) -> None:
    penalty = TruncatedWasserstein(embeddings, epsilon=0.01, pad_token_id=2, eos_token_id=2)
    found = penalty.diagnose()
    median = float(nearest(embeddings, 200).median())
    assert found["median_nearest_cost"] == pytest.approx(median, rel=0.05)
    assert found["median_nearest_cost"] == pytest.approx(2.05, abs=0.1)
    assert found["nearest_cost_over_epsilon"] == pytest.approx(205, abs=10)
    assert "distances at --epsilon 0.01" in str(penalty.warning())
