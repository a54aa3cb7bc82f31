"""The Sinkhorn divergence on the token embeddings of SmolLM2."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dschat.regularization import SinkhornDivergence
from safetensors import safe_open

POSITIONS = 24


@pytest.fixture(scope="module")
def table(smollm2: Path) -> torch.Tensor:
    with safe_open(smollm2 / "model.safetensors", "pt") as weights:  # type: ignore[no-untyped-call]
        return weights.get_tensor("model.embed_tokens.weight").float()


def rms_of_phi(regularizer: SinkhornDivergence, noise: float) -> float:
    vocabulary, generator = len(regularizer.distance), torch.Generator().manual_seed(1)
    rank = 1 + torch.randperm(vocabulary, generator=generator)
    reference = 2 * torch.randn(POSITIONS, vocabulary, generator=generator) - rank.log()
    policy = reference + noise * torch.randn(POSITIONS, vocabulary, generator=generator)
    actions = policy.softmax(1).multinomial(1, generator=generator).squeeze(1)
    return float(regularizer(policy, reference, actions).token.square().mean().sqrt())


def test_the_penalty_goes_to_0_with_the_noise(table: torch.Tensor) -> None:
    regularizer = SinkhornDivergence(table)
    figures = regularizer.diagnose()
    assert figures["median_nearest_cost"] == pytest.approx(0.60, abs=0.02)
    assert figures["epsilon"] == pytest.approx(0.20, abs=0.01)
    little, some, much = (rms_of_phi(regularizer, noise) for noise in (0.01, 0.1, 1.0))
    assert little < 0.01
    assert little < some / 5 < much / 10
