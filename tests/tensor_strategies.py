"""Random tensors for hypothesis: shapes and lengths are drawn one by one, numbers from a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from dschat.algorithms import estimators
from hypothesis import strategies as st
from torch import Tensor

WORST = (math.nan, math.inf, -math.inf)
PROBABILITIES = st.sampled_from([0.0, 0.3, 0.95, 1.0]) | st.floats(0, 1)


@dataclass(frozen=True)
class Responses:
    """Rows of T columns, of which the first `lengths` are response tokens."""

    lengths: list[int]
    columns: int
    seed: int

    @property
    def mask(self) -> Tensor:
        return torch.arange(self.columns) < torch.tensor(self.lengths).unsqueeze(1)

    def draw(self, which: int, scale: float = 1.0) -> Tensor:
        """[B, T] float64, another one for each `which`."""
        generator = torch.Generator().manual_seed(1000 * self.seed + which)
        shape = (len(self.lengths), self.columns)
        return scale * torch.randn(shape, generator=generator, dtype=torch.float64)

    def spoilt(self, x: Tensor, worst: float) -> Tensor:
        """`x` with what is masked replaced."""
        return torch.where(self.mask, x, torch.tensor(worst, dtype=x.dtype))


@st.composite
def responses(draw: st.DrawFn, least_rows: int = 1) -> Responses:
    columns = draw(st.integers(1, 7))
    lengths = draw(st.lists(st.integers(0, columns), min_size=least_rows, max_size=5))
    return Responses(lengths, columns, draw(st.integers(0, 999)))


@st.composite
def groups(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Rewards [B] float64 and group ids [B], every group of 2 or more, in any order."""
    sizes = draw(st.lists(st.integers(2, 4), min_size=1, max_size=3))
    names = draw(st.permutations(range(10)))
    ids = draw(st.permutations([names[g] for g, size in enumerate(sizes) for _ in range(size)]))
    numbers = st.floats(-100, 100).map(lambda x: round(x, 3))
    rewards = draw(st.lists(numbers, min_size=len(ids), max_size=len(ids)))
    return torch.tensor(rewards, dtype=torch.float64), torch.tensor(ids)


def by_scores(rewards: Tensor, groups: Tensor, name: str = "grpo") -> Tensor:
    """[R] advantages of one-token responses without a penalty; "scaled": by the group's std."""
    alone = rewards.unsqueeze(1)
    given = estimators.Responses(
        rewards, torch.zeros_like(alone), torch.ones_like(alone).bool(), groups
    )
    function = estimators.rloo_advantage if name == "rloo" else estimators.grpo_advantage
    return function(given, SimpleNamespace(scale_rewards=name == "scaled")).advantages[:, 0]
