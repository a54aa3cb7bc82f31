"""Importance weights for responses that were drawn from mu and are learnt from as if from pi.

Another engine than the trainer's model samples from a distribution mu of its own: the same weights,
other kernels, another precision, or weights that lag behind. What the policy gradient wants is

    E_{y ~ pi} sum_t grad log pi(a_t | s_t) A_t(y),

and what the samples give is the same mean over y ~ mu.

- "sequence": every token of a response weighs pi(y) / mu(y). Untruncated, this is that gradient
  without bias, whatever mu is. The variance of the weights grows with the response: where
  log(pi(y) / mu(y)) is normal, it is exp(2 k) - 1 with k = KL(mu || pi) per response.
- "token": a token weighs pi(a_t | s_t) / mu(a_t | s_t). What comes before the token (s_t) and after
  it (A_t) is still distributed by mu: the bias is of first order in mu - pi, as without weights,
  about half as large in small worlds (docs/generation.md). The variance does not grow with length.

Truncation (Ionides, "Truncated Importance Sampling", 2008; for rollouts Yao et al., "Your Efficient
RL Framework Secretly Brings You Off-Policy RL Training", 2025) caps a weight; the mask (IcePop,
Ling team, "Every Step Evolves", arXiv 2510.18855) sets what lies outside of [1/cap, cap] to 0.
Both bound the variance and pull the gradient towards that of min(pi, cap mu).
"""

from __future__ import annotations

import torch
from torch import Tensor


def rollout_weights(
    logprobs: Tensor,
    behaviour_logprobs: Tensor,
    mask: Tensor,
    kind: str,
    cap: float,
    level: str = "token",
) -> tuple[Tensor, Tensor]:
    """The weight of each token in the policy gradient, no gradient through it.

    Weights multiply the advantages: every policy loss here is positively homogeneous in them, so
    that w A is learnt from as w times the loss of A. The count that losses are divided by stays.

    Args:
        logprobs: [B, T] log pi of the sampled tokens, before the update.
        behaviour_logprobs: [B, T] log mu of them.
        mask: [B, T] bool; what is masked may be anything, NaN included.
        kind: "tis": at most `cap`. "mask": 0 outside of [1 / cap, cap]. "none": 1.
        cap: above 1.
        level: "token" or "sequence", see the module.

    Returns:
        weights [B, T] float32, 1 where masked; and [B, T] bool, where they are not pi / mu.

    Raises:
        ValueError: another kind or level.
    """
    if kind not in ("tis", "mask", "none") or level not in ("token", "sequence"):
        raise ValueError(f"given the correction {kind!r} per {level!r}")
    log_ratio = log_ratios(logprobs, behaviour_logprobs, mask).detach()
    if level == "sequence":
        log_ratio = log_ratio.sum(dim=1, keepdim=True).expand_as(log_ratio)
    ratio = torch.where(mask, log_ratio, torch.zeros_like(log_ratio)).exp()
    if kind == "tis":
        weights = ratio.clamp(max=cap)
    elif kind == "mask":
        inside = (ratio >= 1 / cap) & (ratio <= cap)
        weights = torch.where(inside, ratio, torch.zeros_like(ratio))
    else:
        weights = torch.ones_like(ratio)
    return weights.float(), weights != ratio


def log_ratios(logprobs: Tensor, behaviour_logprobs: Tensor, mask: Tensor) -> Tensor:
    """[B, T] log pi - log mu in float64, 0 where masked."""
    difference = logprobs.double() - behaviour_logprobs.double()
    return torch.where(mask, difference, torch.zeros_like(difference))


def kl_terms(log_ratio: Tensor) -> Tensor:
    """Per token exp(l) - 1 - l, l = log pi - log mu: its mean over tokens of mu is KL(mu || pi).

    Never negative, and of lower variance than -l (Schulman, "Approximating KL Divergence", 2020,
    k3). Summed over a response its mean is the KL of whole responses, by the chain rule.
    """
    return log_ratio.expm1() - log_ratio
