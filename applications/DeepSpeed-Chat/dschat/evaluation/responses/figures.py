"""What two files' rewards and ROUGE say: means, differences, wins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dschat.evaluation.responses.pairing import Pair
from dschat.runtime.statistics import Estimate, mean_with_interval


@dataclass(frozen=True)
class Versus:
    """A measure of A and of B, and their difference, as means over prompts."""

    name: str
    a: Estimate
    b: Estimate
    difference: Estimate


@dataclass(frozen=True)
class Share:
    """A share of prompts with its Wilson interval."""

    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Figures:
    """All figures of a comparison. `wins`: A's reward is higher; `losses`: B's is."""

    prompts: int
    pairs: int
    unpaired: tuple[int, int]
    measures: list[Versus]
    wins: Share
    ties: Share
    losses: Share

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "prompts": self.prompts,
            "pairs": self.pairs,
            "unpaired": {"a": self.unpaired[0], "b": self.unpaired[1]},
            "measures": {
                m.name: {part: vars(getattr(m, part)) for part in ("a", "b", "difference")}
                for m in self.measures
            },
            **{name: vars(getattr(self, name)) for name in ("wins", "ties", "losses")},
        }


def by_prompt(prompts: Sequence[str], values: Sequence[float]) -> list[float]:
    """The mean of each prompt's values, prompts in the order of their first.

    Responses to one prompt are not independent; prompts are what was drawn.
    """
    found: dict[str, list[float]] = {}
    for prompt, value in zip(prompts, values, strict=True):
        found.setdefault(prompt, []).append(value)
    return [math.fsum(each) / len(each) for each in found.values()]


def versus(
    name: str,
    pairs: Sequence[Pair],
    a: Sequence[float],
    b: Sequence[float],
    seed: int,
    resamples: int,
) -> Versus:
    """Compare a measure of both responses of each pair; the difference is that within pairs."""
    prompts = [pair.prompt for pair in pairs]
    differences = [x - y for x, y in zip(a, b, strict=True)]
    found = (
        mean_with_interval(by_prompt(prompts, values), seed, resamples)
        for values in (a, b, differences)
    )
    return Versus(name, *found)


def figures_of(
    pairs: Sequence[Pair],
    unpaired: tuple[int, int],
    scores: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    seed: int,
    resamples: int,
) -> Figures:
    """Figures of the rewards, and of further scores of A's and B's responses by name."""
    prompts = [pair.prompt for pair in pairs]
    rewards = [pair.rewards[0] for pair in pairs], [pair.rewards[1] for pair in pairs]
    measures = [
        versus(name, pairs, a, b, seed, resamples)
        for name, (a, b) in {"reward": rewards, **scores}.items()
    ]

    def share(outcomes: Sequence[bool]) -> Share:
        each = by_prompt(prompts, [float(x) for x in outcomes])
        found = mean_with_interval(each, seed, resamples, share=True)
        low, high = (
            (0.0, 1.0) if found.low is None or found.high is None else (found.low, found.high)
        )
        return Share(found.mean, low, high)

    return Figures(
        len(set(prompts)),
        len(pairs),
        unpaired,
        measures,
        share([pair.difference > 0 for pair in pairs]),
        share([pair.difference == 0 for pair in pairs]),
        share([pair.difference < 0 for pair in pairs]),
    )


def largest(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """The pairs whose rewards differ most; of equal ones the first."""
    return sorted(pairs, key=lambda pair: -abs(pair.difference))[:count]
