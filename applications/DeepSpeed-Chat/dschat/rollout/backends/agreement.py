"""Whether another engine samples from the policy, by the log-probabilities of both.

mu is the engine's distribution, pi the policy's, at the positions of a prompt. What is sampled from
mu is learnt from as if it came from pi: a token's ratio begins at exp(log pi - log mu) where 1 is
taken for granted, so that the difference must be small beside the clip range (0.2 by default), and
its square, summed over a response, beside 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LISTED = 20
"""Likeliest tokens of mu that are compared at each position: as many as vLLM tells by default."""

LIKELY = 0.01
"""Tokens that mu gives less do not count for `largest`: those are sampled once in a hundred times,
and their log-probabilities are those that rounding moves most."""


@dataclass(frozen=True)
class Agreement:
    """How far mu is from pi, in nats; means over positions.

    Attributes:
        mean: E_mu |log mu - log pi|, of a token that mu samples (among those listed).
        largest: of |log mu - log pi| over positions and likely tokens.
        kl: KL(mu || pi) between the listed tokens and one bin of all others: at most the whole KL.
    """

    mean: float
    largest: float
    kl: float

    def within(self, bound: Agreement) -> bool:
        """Whether nothing is above its bound; not so where something is not a number."""
        pairs = zip(vars(self).values(), vars(bound).values(), strict=True)
        return all(value <= most for value, most in pairs)

    def metrics(self, prefix: str) -> dict[str, float]:
        """For the log."""
        return {f"{prefix}/logprob_{name}": value for name, value in vars(self).items()}


BOUNDS = {
    torch.float32: Agreement(mean=2e-3, largest=0.02, kl=1e-5),
    torch.float16: Agreement(mean=0.01, largest=0.15, kl=2e-4),
    torch.bfloat16: Agreement(mean=0.08, largest=1.0, kl=6e-3),
}
"""By the dtype of the weights; docs/performance.md says what they come from."""


def agreement(policy: Tensor, engine: Sequence[Mapping[int, float]]) -> Agreement:
    """Compare the two at n positions.

    Args:
        policy: [n, V] log-probabilities, float32.
        engine: n times the log-probabilities of some tokens, its likeliest among them.

    Raises:
        ValueError: numbers of positions differ, or there are none.
    """
    if len(engine) != len(policy) or not engine:
        raise ValueError(f"given {len(policy)} and {len(engine)} positions")
    mean = kl = largest = 0.0
    for row, listed in zip(policy.double().cpu(), engine, strict=True):
        ids = torch.tensor(list(listed))
        log_mu = torch.tensor(list(listed.values()), dtype=torch.float64)
        mu, difference = log_mu.exp(), log_mu - row[ids]
        mean += float((mu * difference.abs()).sum())
        likely = difference[mu >= LIKELY].abs()
        largest = max(largest, float(likely.max())) if len(likely) else largest
        rest = [max(1.0 - float(p.sum()), 1e-12) for p in (mu, row[ids].exp())]
        kl += float((mu * difference).sum()) + rest[0] * math.log(rest[0] / rest[1])
    n = len(engine)
    return Agreement(mean / n, largest, max(kl / n, 0.0) if math.isfinite(kl) else kl)
