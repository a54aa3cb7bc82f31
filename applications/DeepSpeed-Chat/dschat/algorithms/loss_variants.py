"""Policy losses beside PPO's: the ratio of a whole response (GSPO), the clipped weight (CISPO).

Both are positively homogeneous in the advantages, as PPO's is: weights of an off-policy correction
may be multiplied into these. Advantages differ from token to token (they hold the sum of the
penalties still to come), so a loss here never takes one advantage for a whole response.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dschat.algorithms.losses import ppo_diagnostics, reduce_losses


def gspo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    count: Tensor | float,
    settings: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Group Sequence Policy Optimization (Zheng et al., 2025, arXiv 2507.18071).

    Clips s = (pi(y) / pi_old(y))^(1/|y|), the geometric mean of a response's ratios, and not each
    token's. This is the paper's GSPO-token, s times pi(y_t) / sg[pi(y_t)]: value and gradient are
    those of GSPO where all tokens of a response have one advantage, and each token keeps its own
    penalty-to-go where they do not.

    Args:
        logprobs, old_logprobs, advantages, mask: [B, T], as in `ppo_policy_loss`.
        count: `loss_count` of the whole optimizer step over all ranks.
        settings: gspo_clip_range, gspo_clip_range_high and loss_normalization are read; the paper's
            is "sequence".

    Returns:
        The loss, this shard's share; and by name sums over its active tokens, where `ratio` and
        `clip_fraction` are those of the response that a token belongs to.
    """
    low, high = settings.gspo_clip_range, settings.gspo_clip_range_high
    zero = torch.zeros_like(logprobs)
    log_ratio = torch.where(mask, logprobs - old_logprobs, zero).detach()
    lengths = mask.sum(dim=1, keepdim=True).clamp(min=1)
    of_response = (log_ratio.sum(dim=1, keepdim=True) / lengths).expand_as(log_ratio)
    # 0, with the gradient of the token's own log-probability.
    own = torch.where(mask, logprobs - logprobs.detach(), zero)
    ratio = (of_response + own).exp()
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high))
    loss = reduce_losses(losses, mask, count, settings.loss_normalization)
    found = ppo_diagnostics(of_response, zero, mask, low, high)
    found["update_kl"] = ppo_diagnostics(logprobs, old_logprobs, mask, low, high)["update_kl"]
    return loss, found


def cispo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    count: Tensor | float,
    settings: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped importance weights times log-probabilities (MiniMax-M1, 2025, arXiv 2506.13585).

    Mean of -sg[clip(r, low, high)] A log pi: a token whose ratio has left the interval keeps a
    gradient, of bounded weight, where PPO's clipping takes it away.

    Args:
        logprobs, old_logprobs, advantages, mask: [B, T], as in `ppo_policy_loss`.
        count: `loss_count` of the whole optimizer step over all ranks.
        settings: cispo_ratio_min, cispo_ratio_max and loss_normalization are read.

    Returns:
        The loss, this shard's share; and by name sums over its active tokens.
    """
    low, high = settings.cispo_ratio_min, settings.cispo_ratio_max
    zero = torch.zeros_like(logprobs)
    weights = torch.where(mask, logprobs - old_logprobs, zero).detach().exp().clamp(low, high)
    losses = -weights * advantages * torch.where(mask, logprobs, zero)
    loss = reduce_losses(losses, mask, count, settings.loss_normalization)
    return loss, ppo_diagnostics(logprobs, old_logprobs, mask, 1 - low, high - 1)
