"""Figures of a ground metric: how much near differs from far, and whether near means related."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dschat.regularization.ground.metric import GroundMetric
from dschat.regularization.ground.used_tokens import sample_of_tokens

SAMPLED_TOKENS = 256
FAR_RANK = 512
LEAST_EPSILON, MOST_EPSILON, HALVINGS = 1e-4, 1e3, 60
OPEN_FROM = 1.0
"""The kernel is open where a token's entries with all others add up to its entry with itself."""

Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Contrast:
    """Medians over a sample of used tokens, in units of the mean cost of pairs.

    Attributes:
        mean: mean cost of random pairs, in the unit of the metric.
        nearest: cost to the nearest other token. far: to the 512th nearest.
        opens_at: least epsilon at which the sum of exp(-cost / epsilon) over all other tokens
            reaches 1, the token's entry with itself, for half of the tokens.
        costs: [n, V] of the sample to all tokens, inf where these are the same or not in use.
    """

    mean: float
    nearest: float
    far: float
    opens_at: float
    costs: Tensor

    @property
    def contrast(self) -> float:
        """How much nearer the nearest token is than a random one, from 0 to 1."""
        return 1 - self.nearest


def contrast_of(metric: GroundMetric, sampled: int = SAMPLED_TOKENS) -> Contrast:
    """The figures of `Contrast`, from `sampled` tokens; holds sampled x V costs."""
    sample = sample_of_tokens(metric.used, sampled)
    every = torch.arange(len(metric), device=sample.device)
    costs = metric.cost(sample, every) / metric.mean
    costs.masked_fill_(~metric.used | (sample.unsqueeze(1) == every), torch.inf)
    rank = min(FAR_RANK, int(metric.used.sum()) - 1)
    return Contrast(
        metric.mean,
        metric.nearest / metric.mean,
        float(costs.kthvalue(rank, dim=1).values.median()),
        _opening(costs),
        costs,
    )


def _opening(costs: Tensor) -> float:
    """Least epsilon, by bisection: the sums grow with it."""
    low, high = LEAST_EPSILON, MOST_EPSILON
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        is_open = float(torch.exp(costs / -middle).sum(1).median()) >= OPEN_FROM
        low, high = (low, middle) if is_open else (middle, high)
        if high < 1.001 * low:
            break
    return high


def separation(metric: GroundMetric, pairs: Pairs) -> float:
    """Area under the curve of related pairs against all other pairs of the same words.

    The probability that a related pair costs less than another pair of a first and a second word
    (half of it where they cost the same); 0.5: the metric knows nothing of the relation.
    """
    left, right = torch.tensor(pairs, device=metric.used.device).unbind(1)
    costs = metric.cost(left, right).double()
    related = costs.diagonal()
    known = {frozenset(pair) for pair in pairs}
    others = torch.tensor(
        [
            [a != b and frozenset((a, b)) not in known for b in right.tolist()]
            for a in left.tolist()
        ],
        device=costs.device,
    )
    random = costs[others]
    less = (related.unsqueeze(1) < random).double() + (related.unsqueeze(1) == random).double() / 2
    return float(less.mean())


def neighbours(metric: GroundMetric, token: int, count: int = 5) -> list[tuple[int, float]]:
    """Ids of the nearest used tokens and their costs in units of the mean cost, nearest first."""
    every = torch.arange(len(metric), device=metric.used.device)
    costs = metric.cost(every[token : token + 1], every)[0] / metric.mean
    costs = costs.masked_fill(~metric.used | (every == token), torch.inf)
    found = costs.topk(min(count, len(costs) - 1), largest=False)
    return list(zip(found.indices.tolist(), found.values.tolist(), strict=True))


def spelling_variants(
    vocabulary: Mapping[str, int], space: str
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs of ids that differ in the first letter's case, and in a space before the word.

    Args:
        vocabulary: token as the tokenizer writes it -> id. space: how it writes a space.
    """
    case: list[tuple[int, int]] = []
    spaced: list[tuple[int, int]] = []
    for token, number in vocabulary.items():
        word = token.removeprefix(space)
        if not (word.isascii() and word.isalpha() and len(word) > 2 and word.islower()):
            continue
        other = token[: len(token) - len(word)] + word.capitalize()
        if other in vocabulary:
            case.append((number, vocabulary[other]))
        if token == word and space + word in vocabulary:
            spaced.append((number, vocabulary[space + word]))
    return case, spaced
