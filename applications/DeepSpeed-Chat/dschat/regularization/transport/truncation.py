"""Distributions of a position cut to its most probable tokens and one bin for the tail."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from dschat.regularization.transport.support import top_k_tokens

NO_TOKEN = -1
"""In the place of a token whose bin has no mass."""


def _light_into_tail(log_masses: Tensor, heavy: Tensor) -> Tensor:
    light = log_masses[:, :-1].masked_fill(heavy, -torch.inf)
    tail = torch.cat([light, log_masses[:, -1:]], dim=1).logsumexp(1, keepdim=True)
    return torch.cat([log_masses[:, :-1].masked_fill(~heavy, -torch.inf), tail], dim=1)


class Truncation(NamedTuple):
    """Policy and reference of N positions over S = 2 top_k + 1 bins.

    Attributes:
        tokens: [N, S - 1] int64, the top_k tokens of the policy, then of the reference. One
            that is in both has its mass at its first place and none at its second; what has no
            mass at all may be named by `NO_TOKEN`.
        log_policy, log_reference: [N, S], log-masses of the bins, the tail last; -inf if empty.
        tail_drift: [N, 1], mass that would have to move between tokens of the tail to make the
            policy the reference there, beyond what the tails' masses differ by. No bin shows it.
    """

    tokens: Tensor
    log_policy: Tensor
    log_reference: Tensor
    tail_drift: Tensor

    @classmethod
    def joined(cls, parts: Iterable[Truncation]) -> Truncation:
        """The distributions of consecutive blocks of positions."""
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def rows(self, positions: Tensor) -> Truncation:
        """The distributions of some positions."""
        return Truncation(*(field[positions] for field in self))

    def with_light_tokens_in_tail(self, mass: float) -> tuple[Truncation, Tensor]:
        """The same with every token that has less than ``mass`` in both put into the tail.

        Returns:
            the distributions, and [N] int64, how many tokens of each position have a bin left.
        """
        least = math.log(mass)
        heavy = (self.log_policy[:, :-1] >= least) | (self.log_reference[:, :-1] >= least)
        policy = _light_into_tail(self.log_policy, heavy)
        reference = _light_into_tail(self.log_reference, heavy)
        return Truncation(self.tokens, policy, reference, self.tail_drift), heavy.sum(1)

    def without_empty_bins(self) -> Truncation:
        """The same distributions with as few bins as the position with most tokens needs."""
        used = (self.log_policy[:, :-1] != -torch.inf) | (self.log_reference[:, :-1] != -torch.inf)
        kept = int(used.sum(1).max()) if len(used) else used.shape[1]
        order = used.int().argsort(dim=1, descending=True, stable=True)[:, :kept]
        bins = torch.cat([order, torch.full_like(used[:, :1], used.shape[1], dtype=torch.int64)], 1)
        # What has no mass in any bin is not found by `bin_of`.
        tokens = self.tokens.masked_fill(~used, NO_TOKEN)
        return Truncation(
            tokens.gather(1, order),
            self.log_policy.gather(1, bins),
            self.log_reference.gather(1, bins),
            self.tail_drift,
        )

    def on_vocabulary(self, size: int) -> tuple[Tensor, Tensor]:
        """Log-masses of both [N, size + 1], a bin for every token of the vocabulary, tail last."""
        return self._spread(self.log_policy, size), self._spread(self.log_reference, size)

    def _spread(self, log_masses: Tensor, size: int) -> Tensor:
        full = log_masses.new_full((len(log_masses), size + 1), -torch.inf)
        # A token that stands twice has no mass at its second place.
        full.scatter_reduce_(1, self.tokens, log_masses[:, :-1], "amax")
        full[:, -1] = log_masses[:, -1]
        return full

    def bin_of(self, token_ids: Tensor) -> Tensor:
        """Bin [N] of one token per position; the tail's for tokens that were cut off."""
        found = self.tokens == token_ids.unsqueeze(1)
        tail = torch.full_like(token_ids, self.tokens.shape[1])
        # argmax gives the first place of a token that stands twice.
        return torch.where(found.any(1), found.int().argmax(1), tail)


def truncate(policy_logits: Tensor, reference_logits: Tensor, top_k: int) -> Truncation:
    """Cut both distributions to the union of their ``top_k`` tokens, and the tail.

    The bins do not depend on the sampled token: otherwise the mean of the token penalty over the
    policy would not be the divergence. The tail is summed over its tokens, so that a mass far
    below rounding is still right.

    Args:
        policy_logits, reference_logits: [N, V]; float64 stays, all else is computed in float32.
        top_k: tokens of each distribution, cut to V.
    """
    of_policy = top_k_tokens(policy_logits, top_k)
    of_reference = top_k_tokens(reference_logits, top_k)
    tokens = torch.cat([of_policy, of_reference], dim=1)
    in_policy = torch.zeros_like(policy_logits, dtype=torch.bool).scatter_(1, of_policy, True)
    repeated = torch.cat(
        [torch.zeros_like(of_policy, dtype=torch.bool), in_policy.gather(1, of_reference)], dim=1
    )
    policy, rest = _masses(policy_logits, tokens, repeated)
    reference, reference_rest = _masses(reference_logits, tokens, repeated)
    drift = rest.sub_(reference_rest).abs_().sum(1, keepdim=True)
    drift = (drift - (policy[:, -1:] - reference[:, -1:]).abs()) / 2
    return Truncation(tokens, policy.log_(), reference.log_(), drift.clamp_(min=0))


def _masses(logits: Tensor, tokens: Tensor, repeated: Tensor) -> tuple[Tensor, Tensor]:
    """[N, S], masses of ``tokens`` [N, S - 1], 0 where repeated, and of the rest; the rest [N, V].

    The second has 0 at the tokens.
    """
    # One tensor over the vocabulary, in the wider dtype. Masses below its range count as none.
    masses = logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))
    inside = masses.gather(1, tokens).masked_fill_(repeated, 0.0)
    tail = masses.scatter_(1, tokens, 0.0).sum(1, keepdim=True)
    return torch.cat([inside, tail], dim=1), masses
