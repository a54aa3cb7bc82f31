"""Random distributions drawn afresh in every run; the seed is printed where a test fails."""

import secrets

import pytest
import torch

VOCABULARY = 7


@pytest.fixture
def rng() -> torch.Generator:
    seed = secrets.randbelow(2**31)
    print(f"random seed of this run: {seed}")
    return torch.Generator().manual_seed(seed)


def _pairs(rng: torch.Generator) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    def normal(scale: float) -> torch.Tensor:
        return scale * torch.randn(5, VOCABULARY, generator=rng, dtype=torch.float64)

    smooth = normal(1.0)
    return {
        "random": (smooth, normal(1.0)),
        "peaked": (normal(4.0), normal(4.0)),
        "flat": (torch.zeros_like(smooth), normal(0.01)),
        "near": (smooth, smooth + normal(1e-3)),
        "identical": (smooth, smooth.clone()),
    }


@pytest.fixture(params=["random", "peaked", "flat", "near", "identical"])
def logits(request: pytest.FixtureRequest, rng: torch.Generator):
    """Policy and reference logits [5, 7] in float64."""
    return _pairs(rng)[request.param]


def _extremes() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    first = torch.full((4, VOCABULARY), -torch.inf)
    first[:, 0] = 0.0
    last = first.flip(1)
    gap = torch.zeros(4, VOCABULARY)
    gap[:, 2] = 1e5
    flat = torch.zeros(4, VOCABULARY)
    left, right = flat.clone(), flat.clone()
    left[:, 4:] = right[:, :4] = -torch.inf
    return {
        "one-hot and flat": (first, flat),
        "flat and one-hot": (flat, first),
        "one-hot twice": (first, first.clone()),
        "two one-hots": (first, last),
        "disjoint halves": (left, right),
        "huge gap": (gap, gap.flip(1)),
        "bfloat16": (30 * gap.sign().bfloat16(), flat.bfloat16()),
    }


@pytest.fixture(params=sorted(_extremes()))
def extreme_logits(request: pytest.FixtureRequest):
    """Logits [4, 7] of distributions with impossible or all but impossible tokens."""
    return _extremes()[request.param]
