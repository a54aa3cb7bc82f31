"""PPO's losses, as sums over this shard's tokens divided by the tokens of the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of x [B, T] where mask [B, T] holds; what is masked may be anything, NaN included."""
    if x.shape != mask.shape:
        raise ValueError(
            f"Expected x and mask of one shape, got {tuple(x.shape)} and {tuple(mask.shape)}."
        )
    return torch.where(mask, x, torch.zeros_like(x)).sum()


def _per_token(total: Tensor, mask: Tensor, token_count: Tensor | float | None) -> Tensor:
    """Divide by the global token count; an empty batch has loss 0, not 0/0."""
    count = mask.sum() if token_count is None else torch.as_tensor(token_count)
    return total / count.clamp(min=1).to(total)


def ppo_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float,
    token_count: Tensor | float | None = None,
) -> Tensor:
    """Clipped surrogate (Schulman et al., 2017): mean of max(-A r, -A clip(r, 1-c, 1+c)).

    Args:
        logprobs: [B, T] current log-probabilities, differentiable. old_logprobs: [B, T] those of
            the policy that sampled. advantages: [B, T]. mask: [B, T] bool.
        clip: half-width of the interval around ratio 1, for example 0.2.
        token_count: tokens of the whole batch over all ranks and accumulated micro-batches; None
            takes this mask's. The losses of shards that pass one count add up to the loss of the
            whole batch, however it is sharded.

    Returns:
        Scalar loss.
    """
    log_ratio = torch.where(mask, logprobs - old_logprobs, torch.zeros_like(logprobs))
    ratio = log_ratio.exp()
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))
    return _per_token(masked_sum(losses, mask), mask, token_count)


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    clip: float,
    token_count: Tensor | float | None = None,
) -> Tensor:
    """Half the mean squared error to the returns, with values clipped around the old ones.

    Args:
        values: [B, T] current values, differentiable. old_values: [B, T] at sampling time.
        returns: [B, T] targets. mask: [B, T] bool. clip: half-width around the old value.
        token_count: as in `ppo_policy_loss`.

    Returns:
        Scalar loss.
    """
    clipped = torch.clamp(values, old_values - clip, old_values + clip)
    losses = 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())
    return _per_token(masked_sum(losses, mask), mask, token_count)


@torch.no_grad()
def ppo_diagnostics(
    logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, clip: float
) -> dict[str, Tensor]:
    """Sums over active tokens, to be divided by the global token count.

    Returns:
        `clip_fraction`: tokens whose ratio lies outside 1 +- clip. `update_kl`: the k3 estimate
        of KL(old || new) (Schulman, "Approximating KL divergence", 2020). `ratio`: the ratios.
    """
    log_ratio = torch.where(mask, logprobs - old_logprobs, torch.zeros_like(logprobs))
    ratio = log_ratio.exp()
    return {
        "clip_fraction": masked_sum(((ratio - 1).abs() > clip).to(ratio), mask),
        "update_kl": masked_sum(ratio - 1 - log_ratio, mask),
        "ratio": masked_sum(ratio, mask),
    }
