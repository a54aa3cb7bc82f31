"""What the policy's loss is made of: log-probabilities and entropies of one micro-batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dschat.rollout.experience import Experience
from dschat.rollout.reference_samples import joined


class PolicyTerms(NamedTuple):
    """Differentiable, 0 where masked.

    Attributes:
        logprobs: [B, T] of the responses' tokens.
        of_samples: [rows, T'] those of the references' samples, where the experience has some.
        entropy: [B, T] in nats of the distributions that the responses' tokens come from, if
            wanted.
    """

    logprobs: Tensor
    of_samples: Tensor | None = None
    entropy: Tensor | None = None


def policy_terms(
    actor: Any, experience: Experience, pad_token_id: int, entropy: bool = False
) -> PolicyTerms:
    """One pass through the actor.

    The references' samples go through it together with the responses, so that all ranks make the
    same number of passes.
    """
    rollout, samples = experience.rollout, experience.samples
    mask = rollout.response_mask
    if samples is None:
        inputs = rollout.model_inputs()
    else:
        inputs = joined(rollout, samples, pad_token_id)
    own = int(mask.sum()) if samples is not None else None
    flat = actor(*inputs, entropy=True) if entropy else (actor(*inputs), None)
    return PolicyTerms(
        _spread(flat[0][:own], mask),
        None if samples is None else _spread(flat[0][own:], samples.response_mask),
        None if flat[1] is None else _spread(flat[1][:own], mask),
    )


def _spread(flat: Tensor, mask: Tensor) -> Tensor:
    full = torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device)
    return full.masked_scatter(mask, flat)
