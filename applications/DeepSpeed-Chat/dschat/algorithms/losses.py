"""Policy and value losses, as sums over this shard divided by a count of the whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of x [B, T] where mask [B, T] holds; what is masked may be anything, NaN included."""
    if x.shape != mask.shape:
        raise ValueError(
            f"Expected x and mask of one shape, got {tuple(x.shape)} and {tuple(mask.shape)}."
        )
    return torch.where(mask, x, torch.zeros_like(x)).sum()


NORMALIZATIONS = ("token", "sequence", "constant")


def loss_count(mask: Tensor, normalization: str = "token", constant: int = 1) -> Tensor:
    """What this shard adds to the count that losses are divided by, a scalar int64.

    Args:
        mask: [B, T] bool.
        normalization: "token": the active tokens. "sequence": the rows that have one. "constant":
            all rows, masked ones too, times `constant`.

    Raises:
        ValueError: another normalisation.
    """
    if normalization == "token":
        return mask.sum()
    if normalization == "sequence":
        return mask.any(dim=1).sum()
    if normalization == "constant":
        return torch.tensor(len(mask) * constant, device=mask.device)
    raise ValueError(
        f"given the normalisation {normalization!r}, expected one of {', '.join(NORMALIZATIONS)}"
    )


def reduce_losses(
    losses: Tensor, mask: Tensor, count: Tensor | float | None = None, normalization: str = "token"
) -> Tensor:
    """This shard's share of the batch's mean loss; the shares of all shards add up to it.

    "token" gives every token of the batch the same weight (Yu et al., DAPO, 2025). "sequence"
    averages within a response first, so that a token of a long response weighs less (Shao et al.,
    2024). "constant" divides the sum by a number that no response has a say in, so that the
    expectation is that of the sum (Liu et al., Dr. GRPO, 2025).

    Args:
        losses: [B, T]; what is masked may be anything, NaN included. mask: [B, T] bool.
        count: `loss_count` summed over all shards; None takes this mask's. An empty batch has
            loss 0, not 0/0.
        normalization: one of `NORMALIZATIONS`.

    Returns:
        Scalar.
    """
    count = loss_count(mask, normalization) if count is None else torch.as_tensor(count)
    if normalization == "sequence":
        losses = losses / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return masked_sum(losses, mask) / count.clamp(min=1).to(losses)


def ppo_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float,
    count: Tensor | float | None = None,
    clip_high: float | None = None,
    normalization: str = "token",
    dual_clip: float | None = None,
) -> Tensor:
    """Clipped surrogate (Schulman et al., 2017): mean of max(-A r, -A clip(r, 1-c, 1+c)).

    Args:
        logprobs: [B, T] current log-probabilities, differentiable. old_logprobs: [B, T] those of
            the policy that sampled. advantages: [B, T]. mask: [B, T] bool.
        clip: half-width of the interval around ratio 1, for example 0.2.
        count: `loss_count` of the whole batch over all ranks and accumulated micro-batches; None
            takes this mask's. The losses of shards that pass one count add up to the loss of the
            whole batch, however it is sharded.
        clip_high: the upper half-width where it differs (Yu et al., DAPO, 2025); None: `clip`.
        normalization: see `reduce_losses`.
        dual_clip: the largest ratio at which a token of negative advantage still has a gradient
            (Ye et al., 2020, arXiv 1912.09729), above `1 + clip_high`; None: none.

    Returns:
        Scalar loss.
    """
    log_ratio = torch.where(mask, logprobs - old_logprobs, torch.zeros_like(logprobs))
    ratio = log_ratio.exp()
    high = clip if clip_high is None else clip_high
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + high))
    if dual_clip is not None:
        losses = torch.where(advantages < 0, losses.clamp(max=-advantages * dual_clip), losses)
    return reduce_losses(losses, mask, count, normalization)


def ppo_clip(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    count: Tensor | float,
    settings: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The policy loss "ppo_clip" of the registry: `ppo_policy_loss` with its diagnostics.

    Args:
        logprobs, old_logprobs, advantages, mask: [B, T], see `ppo_policy_loss`.
        count: `loss_count` of the whole optimiser step over all ranks.
        settings: clip_range, clip_range_high, dual_clip and loss_normalization are read.

    Returns:
        The loss, this shard's share; and by name sums over its active tokens, which are logged
        after division by the step's tokens.
    """
    clip, high = settings.clip_range, settings.clip_range_high
    loss = ppo_policy_loss(
        logprobs,
        old_logprobs,
        advantages,
        mask,
        clip,
        count,
        high,
        settings.loss_normalization,
        settings.dual_clip,
    )
    return loss, ppo_diagnostics(logprobs, old_logprobs, mask, clip, high)


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    clip: float,
    count: Tensor | float | None = None,
) -> Tensor:
    """Half the mean squared error to the returns, with values clipped around the old ones.

    Args:
        values: [B, T] current values, differentiable. old_values: [B, T] at sampling time.
        returns: [B, T] targets. mask: [B, T] bool. clip: half-width around the old value.
        count: tokens of the whole batch, as in `ppo_policy_loss`.

    Returns:
        Scalar loss.
    """
    # Before anything is computed: 0 times the derivative at a NaN is NaN.
    values, old_values, returns = (
        torch.where(mask, x, torch.zeros_like(x)) for x in (values, old_values, returns)
    )
    clipped = torch.clamp(values, old_values - clip, old_values + clip)
    losses = 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())
    return reduce_losses(losses, mask, count)


@torch.no_grad()
def ppo_diagnostics(
    logprobs: Tensor,
    old_logprobs: Tensor,
    mask: Tensor,
    clip: float,
    clip_high: float | None = None,
) -> dict[str, Tensor]:
    """Sums over active tokens, to be divided by the global token count.

    Returns:
        `clip_fraction`: tokens whose ratio lies outside the interval. `update_kl`: the k3 estimate
        of KL(old || new) (Schulman, "Approximating KL divergence", 2020). `ratio`: the ratios.
    """
    log_ratio = torch.where(mask, logprobs - old_logprobs, torch.zeros_like(logprobs))
    ratio = log_ratio.exp()
    outside = (ratio < 1 - clip) | (ratio > 1 + (clip if clip_high is None else clip_high))
    return {
        "clip_fraction": masked_sum(outside.to(ratio), mask),
        "update_kl": masked_sum(ratio - 1 - log_ratio, mask),
        "ratio": masked_sum(ratio, mask),
    }
