"""The control for every ground metric: the same points, given to other tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dschat.regularization.ground.used_tokens import used_tokens

BANDS = 16
"""Bands of token ids, and bands of norms within each, at most."""
TOKENS_PER_BAND = 64
"""Small vocabularies have fewer bands."""


def permuted(embeddings: Tensor, seed: int, fixed: Sequence[int] = ()) -> Tensor:
    """The embeddings [V, D] with rows permuted at random among tokens of like frequency and norm.

    Frequency is taken from the order of ids, in which the tokenizers of byte-pair merges list
    their tokens from frequent to rare. The tokens in use are cut to 16 bands of ids and each of
    these to 16 bands of norms (fewer where a band would hold less than 64 tokens); in a band,
    every row goes to another token (a random cycle). So what is left of the metric is its
    geometry, and what is lost is which tokens are near.

    Args:
        fixed: tokens that keep their rows (special ones), beside those not in use.
    """
    embeddings = embeddings.detach()
    free = used_tokens(embeddings)
    free[[i for i in fixed if 0 <= i < len(free)]] = False
    tokens = free.nonzero().squeeze(1)
    norms = embeddings.float().norm(dim=1)
    bands = min(BANDS, max(1, math.isqrt(len(tokens) // TOKENS_PER_BAND)))
    generator = torch.Generator().manual_seed(seed)
    result = embeddings.clone()
    for of_like_frequency in tokens.tensor_split(bands):
        by_norm = of_like_frequency[norms[of_like_frequency].argsort(stable=True)]
        for band in by_norm.tensor_split(bands):
            order = torch.randperm(len(band), generator=generator).to(band.device)
            cycle = band[order]
            result[cycle] = embeddings[cycle.roll(1)]
    return result
