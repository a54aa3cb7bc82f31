"""DPO with several references: their mixture and the margin of a pair, from sequence log-probs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

KL_TYPES = ("rkl", "fkl", "rkl_chi2")

# Above this log(reference / policy), for rkl_chi2 log(policy / reference), the ratio goes on as a
# straight line. At the optimum the ratio is (Z - R) / gamma, for rkl_chi2 below (R - Z) / gamma:
# e^10 = 22,026 is beyond any range of rewards over gamma that is meant.
MAX_LOG_RATIO = 10.0


def _check_kl_type(kl_type: str) -> None:
    if kl_type not in KL_TYPES:
        raise ValueError(f"given kl_type {kl_type!r}, expected one of {', '.join(KL_TYPES)}")


def mix_sequence_logprobs(logprobs: Tensor, weights: Sequence[float], kl_type: str) -> Tensor:
    """Log of the references' mixture over whole sequences (Aminian et al., arXiv 2502.01203).

    "rkl": the geometric mean, sum_k w_k log rho_k(y), without its normaliser: that is a constant of
    the prompt, which a difference of two responses to it does not contain. "fkl": the arithmetic
    mean, log sum_k w_k rho_k(y). "rkl_chi2": the geometric mean and the harmonic one,
    -log sum_k w_k / rho_k(y): each term of the penalty has its own mixture.

    Args:
        logprobs: [K, B] log rho_k(y), summed over the response's tokens.
        weights: K numbers from 0 with sum 1. What has weight 0 does not count, even at -inf.
        kl_type: "rkl", "fkl" or "rkl_chi2".

    Returns:
        [B]; rkl_chi2: [2, B], both mixtures.

    Raises:
        ValueError: another number of weights than references, weights that are no distribution,
            or another kl_type.
    """
    _check_kl_type(kl_type)
    if logprobs.dim() != 2 or logprobs.shape[0] != len(weights):
        raise ValueError(
            f"given log-probabilities of shape {tuple(logprobs.shape)} and {len(weights)} weights, "
            "expected [K, B] and K weights"
        )
    proper = all(math.isfinite(w) and w >= 0 for w in weights)
    if not proper or abs(math.fsum(weights) - 1) > 1e-6:
        raise ValueError(f"given weights {list(weights)}, expected numbers from 0 with sum 1")
    used = [k for k, weight in enumerate(weights) if weight > 0]
    w = torch.tensor(
        [weights[k] for k in used], dtype=logprobs.dtype, device=logprobs.device
    ).unsqueeze(1)
    logprobs = logprobs[used]
    if kl_type == "fkl":
        return (w.log() + logprobs).logsumexp(dim=0)
    geometric = (w * logprobs).sum(dim=0)
    if kl_type == "rkl":
        return geometric
    return torch.stack([geometric, -(w.log() - logprobs).logsumexp(dim=0)])


def guarded_exp(x: Tensor, limit: float = MAX_LOG_RATIO) -> Tensor:
    """exp(x) up to `limit` and its tangent there beyond: e^limit (1 + x - limit).

    A clamped exponential has gradient 0 above the limit, and that is where a preferred response
    that the policy has all but lost needs it most. The tangent keeps the function increasing and
    convex, its value and its slope continuous, and the slope at most e^limit.
    """
    # Both branches are finite everywhere: an infinity in the unused one would give NaN gradients.
    tangent = math.exp(limit) * (1 + x - limit)
    return torch.where(x > limit, tangent, x.clamp(max=limit).exp())


def implicit_rewards(
    policy: Tensor,
    reference: Tensor,
    gamma: float,
    kl_type: str,
    max_log_ratio: float = MAX_LOG_RATIO,
) -> tuple[Tensor, Tensor]:
    """The reward that a policy is optimal for, up to a constant of the prompt.

    From the optima pi = rho exp(R / gamma) / Z (RKL, rho the geometric mean) and
    pi = gamma rhobar / (Z - R) (FKL, rhobar the arithmetic mean), Z in each a constant of the
    prompt (Aminian et al., arXiv 2502.01203):
    RKL: gamma (log pi - log rho). FKL: -gamma rhobar / pi.
    RKL_CHI2: gamma (log pi - log rho + pi / rho_h), rho_h the harmonic mean: chi-PO's mixed link
    (Huang et al., arXiv 2407.13399), the first variation of sum_k w_k [KL(pi || rho_k) +
    chi2(pi || rho_k)], chi2 = E_rho[(pi / rho - 1)^2] / 2. The paper also clips the margin to twice
    the largest reward, where its gradient is 0; that is left out here.

    Args:
        policy: [B] log pi(y). reference: from `mix_sequence_logprobs` of the same kl_type, [B], or
            [2, B] for rkl_chi2.
        gamma: strength of the penalty, above 0.
        kl_type: "rkl", "fkl" or "rkl_chi2".
        max_log_ratio: limit of `guarded_exp` (fkl, rkl_chi2).

    Returns:
        rewards [B], and [B] bool: where the guard acts (never for RKL).
    """
    _check_kl_type(kl_type)
    if not gamma > 0:
        raise ValueError(f"given gamma {gamma}, expected a number above 0")
    expected = (2, *policy.shape) if kl_type == "rkl_chi2" else tuple(policy.shape)
    if tuple(reference.shape) != expected:
        raise ValueError(
            f"given log-probabilities of shapes {tuple(policy.shape)} (policy) and "
            f"{tuple(reference.shape)} (reference), expected {expected} for the reference"
        )
    if kl_type == "rkl_chi2":
        log_ratio = policy - reference[1]
        link = policy - reference[0] + guarded_exp(log_ratio, max_log_ratio)
        return gamma * link, log_ratio > max_log_ratio
    log_ratio = reference - policy
    if kl_type == "rkl":
        return -gamma * log_ratio, torch.zeros_like(log_ratio, dtype=torch.bool)
    return -gamma * guarded_exp(log_ratio, max_log_ratio), log_ratio > max_log_ratio


def dpo_margins(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    gamma: float,
    kl_type: str,
    max_log_ratio: float = MAX_LOG_RATIO,
) -> tuple[Tensor, Tensor]:
    """Difference of the implicit rewards of the pairs; the loss is -log sigmoid of it.

    RKL: gamma [(log pi - log rho)(y_w) - (log pi - log rho)(y_l)], which with one reference is DPO
    (Rafailov et al., 2023) with beta = gamma. FKL: gamma [rhobar(y_l) / pi(y_l) -
    rhobar(y_w) / pi(y_w)]. RKL_CHI2: chi-PO, see `implicit_rewards`.

    Args:
        policy_chosen, policy_rejected: [B] log pi(y_w) and log pi(y_l), differentiable.
        reference_chosen, reference_rejected: of the references' mixture, [B], or [2, B].
        gamma, kl_type, max_log_ratio: see `implicit_rewards`.

    Returns:
        margins [B], and the share of the 2 B ratios on which the guard acts (a scalar).
    """
    options = (gamma, kl_type, max_log_ratio)
    chosen, guarded_w = implicit_rewards(policy_chosen, reference_chosen, *options)
    rejected, guarded_l = implicit_rewards(policy_rejected, reference_rejected, *options)
    return chosen - rejected, torch.stack([guarded_w, guarded_l]).float().mean()
