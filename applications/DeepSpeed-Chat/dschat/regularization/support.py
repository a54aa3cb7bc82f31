"""The tokens a batch is truncated to, and distributions over them with one bin for the rest."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dschat.regularization.base import log_probabilities


def union_of_tokens(
    logits: Iterable[Tensor],
    token_ids: Iterable[Tensor],
    top_k: int,
    excluded: int | None,
    included: int | None,
) -> Tensor:
    """Sorted union [S] int64 of the ``top_k`` tokens of each row of logits and of ``token_ids``.

    Args:
        logits: tensors [N, V], all on one device.
        token_ids: int64 tensors of any shape.
        top_k: tokens per row, cut to V.
        excluded: token left out, None for none.
        included: token always in, even if it is the excluded one; None for none.
    """
    rows = list(logits)
    device = rows[0].device
    found = [each.topk(min(top_k, each.shape[-1]), sorted=False).indices for each in rows]
    union = torch.cat([ids.to(device).flatten() for ids in [*found, *token_ids]])
    if excluded is not None:
        union = union[union != excluded]
    if included is not None:
        union = torch.cat([union, union.new_tensor([included])])
    return union.unique()


def check_support(support: Tensor, vocabulary: int) -> None:
    """Raise ValueError unless ``support`` is sorted, not repeating and below ``vocabulary``."""
    if support.dim() != 1 or support.dtype != torch.int64:
        raise ValueError(
            f"given a support {tuple(support.shape)} of {support.dtype}, expected [S] of "
            "torch.int64: pass the result of collect_support"
        )
    if not bool((support[1:] > support[:-1]).all()):
        raise ValueError(
            "given a support with repeated or unsorted ids, expected sorted ones without "
            "repetition: apply torch.unique after gathering supports over ranks"
        )
    if len(support) and (int(support[0]) < 0 or int(support[-1]) >= vocabulary):
        raise ValueError(
            f"given a support from {int(support[0])} to {int(support[-1])}, expected token ids "
            f"from 0 to {vocabulary - 1}: check the ids of the padding and end-of-sequence tokens"
        )


def binned_distribution(logits: Tensor, support: Tensor) -> Tensor:
    """Probabilities [S + 1, N] of the support's tokens and, last, of all other tokens together.

    The last bin is summed, not taken as one minus the others: where the support holds nearly all
    the mass, that difference would be rounding only.

    Args:
        logits: [N, V].
        support: [S] int64, without repetition.
    """
    probabilities = log_probabilities(logits).exp_()
    inside = probabilities[:, support]
    outside = probabilities.index_fill_(1, support, 0.0).sum(1, keepdim=True)
    return torch.cat([inside, outside], dim=1).T.contiguous()


def bin_of(token_ids: Tensor, support: Tensor) -> Tensor:
    """Position [N] of each token in the sorted support [S]; S, the last bin, if it is not there."""
    if not len(support):
        return torch.zeros_like(token_ids)
    place = torch.searchsorted(support, token_ids).clamp(max=len(support) - 1)
    return torch.where(support[place] == token_ids, place, len(support))
