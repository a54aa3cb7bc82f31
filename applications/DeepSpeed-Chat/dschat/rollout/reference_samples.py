"""Responses of the references as a part of a micro-batch: the forward KL's training data.

max E_pi[R] - gamma sum_k w_k KL(rho_k || pi) over whole responses has the gradient
grad E_pi[R] + gamma E_{y ~ rhobar}[grad log pi(y)] (Aminian et al., arXiv 2502.01203): samples of
the references, drawn once, and minus their log-probability as a loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dschat.data.ends import EndIds, Ends
from dschat.rollout.experience import Rollout, make_rollout
from dschat.rollout.generation import uniform_numbers

SEED_OF_SAMPLES = 7_919
"""Added to the run's seed, so that references do not share the policy's random numbers."""


def samples_of(
    prompt_ids: Sequence[list[int]],
    samples: Sequence[Sequence[list[int]]],
    indices: Sequence[int],
    group_size: int,
    ends: EndIds | Ends,
    pad_token_id: int,
    device: torch.device,
) -> Rollout | None:
    """The references' responses that belong to a micro-batch; None where it gets none.

    A prompt's j-th sample travels with the j-th response of its group, so that every sample is
    learnt from once per pass, whatever the number of ranks and micro-batches.

    Args:
        prompt_ids: of the micro-batch's responses. samples: per response those of its prompt, the
            same number for all, at most `group_size`.
        indices: per response its index in the iteration.
    """
    chosen = [i for i, index in enumerate(indices) if index % group_size < len(samples[i])]
    if not chosen:
        return None
    responses = [samples[i][indices[i] % group_size] for i in chosen]
    nothing: list[dict[str, Any]] = [{} for _ in chosen]
    empty = [""] * len(chosen)
    return make_rollout(
        [prompt_ids[i] for i in chosen],
        responses,
        empty,
        empty,
        nothing,
        ends,
        pad_token_id,
        device,
        [indices[i] for i in chosen],
        keep_empty=True,
    )


def uniform_numbers_of_samples(length: int, seed: int, rows: Sequence[int]) -> Tensor:
    """[rows, length] numbers in [0, 1), a row for each sample: not those of the policy's responses.

    Args:
        seed: the run's. rows: numbers of samples, see `PromptExample`.
    """
    return torch.cat([uniform_numbers(1, length, seed + SEED_OF_SAMPLES, row) for row in rows])


def positions_in_common(
    actions: Tensor,
    mask: Tensor,
    samples: Sequence[Sequence[list[int]]],
    indices: Sequence[int],
    group_size: int,
) -> Tensor:
    """[B, T] bool: a response's tokens before which it is the references' sample, word for word.

    Whether a position is one of them is known before its token is drawn, so that the mean of
    grad log pi(token) over these positions is 0, however response and sample depend on each other.

    Args:
        actions, mask: [B, T] the responses' tokens.
        samples: per response those of its prompt that it may be compared with; its index within
            its group says with which.
    """
    found = torch.zeros_like(mask)
    for i, (row, index) in enumerate(zip(actions.tolist(), indices, strict=True)):
        member = index % group_size
        if member < len(samples[i]):
            pairs = enumerate(zip(row, samples[i][member], strict=False))
            parted = (t for t, (own, other) in pairs if own != other)
            found[i, : next(parted, len(row)) + 1] = True
    return found & mask


def joined(first: Rollout, second: Rollout, pad_token_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Model inputs of both rollouts as one batch, those of `first` above.

    Returns:
        input_ids and attention_mask [B1 + B2, P + T] and response_mask [B1 + B2, T], P and T the
        larger of the two.
    """
    both = (first, second)
    lengths = [r.response_mask.shape[1] for r in both]
    prompts = [r.input_ids.shape[1] - t for r, t in zip(both, lengths, strict=True)]

    def padded(x: Tensor, left: int, right: int, value: int) -> Tensor:
        return torch.nn.functional.pad(x, (left, right), value=value)

    ids, attention, masks = [], [], []
    for rollout, p, t in zip(both, prompts, lengths, strict=True):
        left, right = max(prompts) - p, max(lengths) - t
        ids.append(padded(rollout.input_ids, left, right, pad_token_id))
        attention.append(padded(rollout.attention_mask, left, right, 0))
        masks.append(padded(rollout.response_mask, 0, right, 0))
    return torch.cat(ids), torch.cat(attention), torch.cat(masks)
