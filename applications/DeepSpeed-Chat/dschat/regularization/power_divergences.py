"""Renyi's and Tsallis' divergences of next-token distributions as policy regularisers.

Both are functions of M = E_pi[x^(order - 1)], x = pi / rho, and both become KL(pi || rho) as the
order goes to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dschat.regularization.base import (
    Penalty,
    PolicyRegularizer,
    at_actions,
    checked_penalty,
    log_probabilities,
    mean,
    single_reference,
)
from dschat.regularization.f_functions import expm1_minus, limited


def _checked_order(given: float, name: str) -> float:
    if not (math.isfinite(given) and given > 0 and given != 1):
        raise ValueError(
            f"given {name} = {given}, expected a finite number above 0 other than 1: at 1 both are "
            "KL(pi || rho), the regulariser kl"
        )
    return float(given)


def tsallis_divergence(log_pi: Tensor, log_rho: Tensor, order: float) -> Tensor:
    """(sum_a pi^q rho^(1-q) - 1) / (q - 1), q = `order`.

    A sum of terms that are never negative, pi [h((q-1) l) / (q-1) + h(-l)] with h(y) = e^y - 1 - y,
    so that neither q near 1 nor pi near rho costs digits; x^(q-1) counts as at most e^40.

    Args:
        log_pi, log_rho: [..., V].

    Returns:
        [...].
    """
    power, l = order - 1, log_pi - log_rho
    pi = log_pi.exp()
    small = l.clamp(-1, 1)
    near = pi * (expm1_minus(power * small) / power + expm1_minus(-small))
    # pi (x^(q-1) - 1). Where pi is tiny and q < 1, x^(q-1) may overflow: their product does not.
    overlap = torch.where(
        (power * l < 1) | (power > 0),
        pi * torch.expm1(limited(power * l)),
        torch.exp(order * log_pi - power * log_rho) - pi,
    )
    far = overlap / power + log_rho.exp() - pi
    return torch.where(l.abs() <= 1, near, far).sum(-1)


class TsallisDivergence(PolicyRegularizer):
    """D = (E_pi[x^(q-1)] - 1) / (q - 1): an f-divergence, f(x) = (x^q - x) / (q - 1).

    Token penalty phi(a) = q (x_a^(q-1) - E_pi x^(q-1)) / (q - 1) + D, the first variation with mean
    D: its policy gradient is that of the sum of D over the response. q = 2 is chi squared; between
    0 and 1 it is q times the alpha-divergence of alpha = 1 - q. q > 1 punishes tokens that the
    policy made likelier more than KL does, q < 1 less (phi is bounded above by q / (1 - q) + D).

    What it is not: a Tsallis divergence of whole responses. That is no sum over tokens unless q is
    1; this is the expected sum of next-token divergences along the policy's responses.

    Source: Tsallis, J. Stat. Phys. 52 (1988); as a policy regulariser Lee et al., arXiv 1902.00137
    (there the entropy, without a reference).

    Args:
        tsallis_q: above 0, not 1.

    Raises:
        ValueError: another q.
    """

    name = "tsallis"

    def __init__(self, tsallis_q: float = 0.5) -> None:
        self.order = _checked_order(tsallis_q, "tsallis_q")

    def __call__(
        self, policy_logits: Tensor, reference_logits: Tensor | Sequence[Tensor], actions: Tensor
    ) -> Penalty:
        """Penalise N positions: logits [N, V] twice and sampled tokens [N] int64."""
        reference_logits = single_reference(policy_logits, reference_logits, actions)
        log_pi, log_rho = log_probabilities(policy_logits), log_probabilities(reference_logits)
        divergence = tsallis_divergence(log_pi, log_rho, self.order).clamp(min=0)
        log_ratio = at_actions(log_pi, actions) - at_actions(log_rho, actions)
        # q (x^p - 1) / p - q (M - 1) / p + D, and (M - 1) / p is D itself.
        power = self.order - 1
        excess = torch.expm1(limited(power * limited(log_ratio))) / power
        token = self.order * excess + (1 - self.order) * divergence
        metrics = {"log_ratio": mean(log_ratio), "token_penalty": mean(token)}
        return checked_penalty(token, divergence, metrics)


class RenyiDivergence(PolicyRegularizer):
    """D = log(E_pi[x^(alpha-1)]) / (alpha - 1).

    Token penalty phi(a) = alpha (x_a^(alpha-1) / E_pi x^(alpha-1) - 1) / (alpha - 1) + D, the first
    variation with mean D: its policy gradient is that of the sum of D over the response.

    What it is not: an f-divergence (it is a function of one), convex in pi for alpha above 1 (it is
    quasi-convex), or a Renyi divergence of whole responses, which is no sum over tokens: Renyi's
    chain rule tilts the distribution of prefixes. alpha of infinity (the largest log-ratio) is not
    offered: its variation sees a single token.

    Source: van Erven and Harremoes, arXiv 1206.2459.

    Args:
        renyi_alpha: above 0, not 1.

    Raises:
        ValueError: another alpha.
    """

    name = "renyi"

    def __init__(self, renyi_alpha: float = 0.5) -> None:
        self.order = _checked_order(renyi_alpha, "renyi_alpha")

    def __call__(
        self, policy_logits: Tensor, reference_logits: Tensor | Sequence[Tensor], actions: Tensor
    ) -> Penalty:
        """Penalise N positions: logits [N, V] twice and sampled tokens [N] int64."""
        reference_logits = single_reference(policy_logits, reference_logits, actions)
        log_pi, log_rho = log_probabilities(policy_logits), log_probabilities(reference_logits)
        power = self.order - 1
        # log M. Near 0 the logarithm of a sum of exponentials has no digits, far off the sum
        # overflows: log1p of M - 1 there, logsumexp here.
        excess = power * tsallis_divergence(log_pi, log_rho, self.order)
        far = (self.order * log_pi - power * log_rho).logsumexp(-1)
        log_m = torch.where(far.abs() < 0.5, torch.log1p(excess.clamp(-0.6, 1.0)), far)
        divergence = (log_m / power).clamp(min=0)
        log_ratio = at_actions(log_pi, actions) - at_actions(log_rho, actions)
        tilt = torch.expm1(limited(power * log_ratio - power * divergence))
        token = self.order * tilt / power + divergence
        metrics = {"log_ratio": mean(log_ratio), "token_penalty": mean(token)}
        return checked_penalty(token, divergence, metrics)
