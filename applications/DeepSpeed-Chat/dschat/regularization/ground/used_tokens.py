"""Which rows of an embedding table are tokens in use.

Vocabularies are padded, and some tokens were never trained: their rows are zero or copies of one
row. They have no mass in any policy, and figures about distances must not count them.
"""

from __future__ import annotations

import torch
from torch import Tensor

SAMPLED_TOKENS = 512
SAMPLE_SEED = 0
ZERO_NORM = 1e-6
"""Rows shorter than this share of the longest one count as zero."""
COPIES = 3
"""So many equal rows are copies of an untrained one; two may be tokens that share their meaning."""
ROWS_PER_BLOCK = 8192


def used_tokens(embeddings: Tensor) -> Tensor:
    """[V] bool, False for zero rows and for rows of which there are three or more copies.

    All True where nothing would be left.
    """
    embeddings = embeddings.detach()
    norms = torch.cat([x.float().norm(dim=1) for x in embeddings.split(ROWS_PER_BLOCK)])
    _, group, sizes = torch.unique(_digests(embeddings), return_inverse=True, return_counts=True)
    used = (norms > ZERO_NORM * norms.max()) & (sizes[group] < COPIES)
    return used if int(used.sum()) > 1 else torch.ones_like(used)


def _digests(embeddings: Tensor) -> Tensor:
    """[V] int64, equal for equal rows: integer arithmetic, whose order does not matter."""
    generator = torch.Generator().manual_seed(SAMPLE_SEED)
    width = embeddings.shape[1]
    factors = torch.randint(-(2**62), 2**62, (width,), generator=generator).to(embeddings.device)
    parts = [
        (x.float().contiguous().view(torch.int32).long() * factors).sum(1)
        for x in embeddings.split(ROWS_PER_BLOCK)
    ]
    return torch.cat(parts)


def sample_of_tokens(used: Tensor, size: int = SAMPLED_TOKENS) -> Tensor:
    """[n] int64, ascending: at most `size` of the used tokens, always the same ones."""
    tokens = used.nonzero().squeeze(1)
    generator = torch.Generator().manual_seed(SAMPLE_SEED)
    chosen = torch.randperm(len(tokens), generator=generator)[:size].to(tokens.device)
    return tokens[chosen].sort().values
