"""Trust regions of the token's probability, in the place of PPO's ratio clipping.

mu is the policy that sampled, pi the current one, r = pi / mu at the sampled token. Both methods
look at the two-outcome distributions "this token or another", which need no logits. They bound an
update, and are no penalty near a reference. Both are heuristics in what they estimate: the
divergence of two outcomes is a lower bound of that of the whole vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dschat.algorithms.losses import masked_sum, reduce_losses


def _inputs(*tensors: Tensor, mask: Tensor) -> list[Tensor]:
    """With 0 where masked: what stands there may be NaN."""
    return [torch.where(mask, x, torch.zeros_like(x)) for x in tensors]


@torch.no_grad()
def binary_divergence(logprobs: Tensor, old_logprobs: Tensor, kind: str) -> Tensor:
    """Of "this token or another", from mu to pi: "tv", |pi - mu|, or "kl", KL(mu || pi)."""
    pi, mu = logprobs.exp(), old_logprobs.exp()
    if kind == "tv":
        return (pi - mu).abs()
    rest, old_rest = (-torch.expm1(x).clamp(max=-1e-7) for x in (logprobs, old_logprobs))
    return mu * (old_logprobs - logprobs) + old_rest * (old_rest / rest).log()


@torch.no_grad()
def _sums(log_ratio: Tensor, outside: Tensor, mask: Tensor) -> dict[str, Tensor]:
    ratio = log_ratio.exp()
    return {
        "clip_fraction": masked_sum(outside.to(ratio), mask),
        "update_kl": masked_sum(ratio - 1 - log_ratio, mask),
        "ratio": masked_sum(ratio, mask),
    }


def dppo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    count: Tensor | float,
    settings: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """DPPO (arXiv 2602.04879, equations 11 to 14): -M r A, unclipped.

    M is 0 where the binary divergence is above the threshold and the step would lead further away
    (A > 0 with r > 1, or A < 0 with r < 1), else 1, without a gradient.

    Args:
        logprobs, old_logprobs, advantages, mask, count: as of `ppo_clip`.
        settings: dppo_divergence, dppo_threshold and loss_normalization are read.

    Returns:
        The loss, and sums as of `ppo_clip`; `clip_fraction`: tokens that M leaves out.
    """
    logprobs, old, advantages = _inputs(logprobs, old_logprobs, advantages, mask=mask)
    log_ratio = logprobs - old
    far = binary_divergence(logprobs, old, settings.dppo_divergence) > settings.dppo_threshold
    blocked = far & (advantages * log_ratio.detach() > 0)
    losses = torch.where(blocked, torch.zeros_like(log_ratio), -advantages * log_ratio.exp())
    loss = reduce_losses(losses, mask, count, settings.loss_normalization)
    return loss, _sums(log_ratio, blocked, mask)


def drpo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    count: Tensor | float,
    settings: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """DRPO, after arXiv 2606.09821: -A r + |A| (pi - mu)^2 / (2 delta mu).

    The gradient of A r is weighted by 1 - sign(A) (pi - mu) / delta: 0 at DPPO's boundary, the
    other way beyond it. The weight is the published one; the objective above is derived from it.

    Args:
        logprobs, old_logprobs, advantages, mask, count: as of `ppo_clip`.
        settings: drpo_delta and loss_normalization are read.

    Returns:
        The loss, and sums as of `ppo_clip`; `clip_fraction`: tokens whose weight is negative.
    """
    logprobs, old, advantages = _inputs(logprobs, old_logprobs, advantages, mask=mask)
    log_ratio, mu = logprobs - old, old.exp()
    ratio = log_ratio.exp()
    shift = mu * (ratio - 1) ** 2 / (2 * settings.drpo_delta)
    losses = -advantages * ratio + advantages.abs() * shift
    loss = reduce_losses(losses, mask, count, settings.loss_normalization)
    beyond = advantages.sign() * mu * (ratio.detach() - 1) > settings.drpo_delta
    return loss, _sums(log_ratio, beyond, mask)
