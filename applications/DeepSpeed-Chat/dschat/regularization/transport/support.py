"""The tokens a batch is truncated to, and distributions over them with one bin for the rest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def top_k_tokens(logits: Tensor, top_k: int) -> Tensor:
    """Ids [N, top_k] of the largest logits [N, V] of each row, in no order; top_k is cut to V.

    They lie in the top_k groups of columns with the largest maxima: one quick pass and two short
    selections instead of a long one.
    """
    rows, vocabulary = logits.shape
    per_group = math.isqrt(vocabulary // top_k) if top_k < vocabulary else 1
    if per_group < 2:
        return logits.topk(min(top_k, vocabulary), dim=1, sorted=False).indices
    groups = vocabulary // per_group
    ungrouped = torch.arange(groups * per_group, vocabulary, device=logits.device)
    # Group g holds the columns g, g + groups, g + 2 groups...
    largest = logits[:, : groups * per_group].unflatten(1, (per_group, groups)).amax(1)
    chosen = largest.topk(top_k, dim=1, sorted=False).indices
    offsets = groups * torch.arange(per_group, device=logits.device)
    candidates = torch.cat(
        [(chosen[:, None, :] + offsets[:, None]).flatten(1), ungrouped.expand(rows, -1)], dim=1
    )
    place = logits.gather(1, candidates).topk(top_k, dim=1, sorted=False).indices
    return candidates.gather(1, place)


def union_of_tokens(
    logits: Iterable[Tensor],
    token_ids: Iterable[Tensor],
    top_k: int,
    excluded: int | None,
    included: int | Sequence[int] | None,
) -> Tensor:
    """Sorted union [S] int64 of the ``top_k`` tokens of each row of logits and of ``token_ids``.

    Args:
        logits: tensors [N, V], all on one device.
        token_ids: int64 tensors of any shape.
        top_k: tokens per row, cut to V.
        excluded: token excluded, None for none.
        included: token or tokens always in, even the excluded one; None for none.

    Raises:
        ValueError: if an id is negative.
    """
    rows = list(logits)
    device = rows[0].device
    # Ids are marked in a mask over the vocabulary: sorting them would take longer.
    given = torch.cat([ids.to(device).flatten() for ids in token_ids])
    always = [included] if isinstance(included, int) else list(included or ())
    given = torch.cat([given, given.new_tensor(always)])
    smallest, largest = (int(x) for x in given.aminmax()) if len(given) else (0, 0)
    if smallest < 0:
        raise ValueError(f"given token id {smallest}, expected ids from 0 on")
    is_found = torch.zeros(
        max([largest + 1, *(each.shape[1] for each in rows)]), dtype=torch.bool, device=device
    )
    for each in rows:
        is_found[top_k_tokens(each, top_k).flatten()] = True
    is_found[given] = True
    if excluded is not None and excluded not in always and 0 <= excluded < len(is_found):
        is_found[excluded] = False
    return is_found.nonzero().squeeze(1)


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
    """Probabilities [N, S + 1] of the support's tokens and, last, of all other tokens together.

    The last bin is summed, not taken as one minus the others: where the support holds nearly all
    the mass, that difference would be rounding only.

    Args:
        logits: [N, V]; float64 stays, all else is computed in float32.
        support: [S] int64, without repetition.
    """
    masses = logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))
    outside = masses.new_ones(masses.shape[1]).index_fill_(0, support, 0.0)
    # The last column is overwritten with the tail.
    binned = masses.index_select(1, torch.cat([support, support.new_zeros(1)]))
    binned[:, -1] = masses @ outside
    return binned


def bin_of(token_ids: Tensor, support: Tensor) -> Tensor:
    """Position [N] of each token in the sorted support [S]; S, the last bin, if it is not there."""
    if not len(support):
        return torch.zeros_like(token_ids)
    place = torch.searchsorted(support, token_ids).clamp(max=len(support) - 1)
    return torch.where(support[place] == token_ids, place, len(support))
