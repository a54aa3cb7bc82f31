"""Inputs of the benchmarks: embeddings with groups of near tokens, logits as a language model's."""

from __future__ import annotations

import torch
from torch import Tensor

GROUP = 20
LOGITS = ("zipf", "flat")


def embeddings(vocabulary: int, dimension: int, seed: int = 0) -> Tensor:
    """[V, D] float32: groups of some 20 tokens around common centres, as synonyms are.

    Within a group the distance is about 0.55 of the mean distance of all tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(max(1, vocabulary // GROUP), dimension, generator=generator)
    of_token = torch.randint(len(centres), (vocabulary,), generator=generator)
    own = torch.randn(vocabulary, dimension, generator=generator)
    return centres[of_token] + 0.7 * own


def logits(
    kind: str, positions: int, vocabulary: int, step: float, seed: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Policy logits [N, V], reference logits [N, V] and sampled tokens [N].

    Args:
        kind: ``zipf``: log-probabilities fall with the rank as -log(rank) over all contexts, and a
            context shifts each by a normal number of deviation 2 (entropy about 4 nats); ``flat``:
            standard normal logits.
        step: deviation of policy logits from reference logits: 0.3 is some way into a training.
    """
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(positions, vocabulary, generator=generator)
    if kind == "zipf":
        rank = 1 + torch.randperm(vocabulary, generator=generator)
        reference = 2 * reference - rank.log()
    elif kind != "flat":
        raise ValueError(f"given logits {kind!r}, expected one of {', '.join(LOGITS)}")
    policy = reference + step * torch.randn(positions, vocabulary, generator=generator)
    return policy, reference, policy.softmax(1).multinomial(1, generator=generator).squeeze(1)
