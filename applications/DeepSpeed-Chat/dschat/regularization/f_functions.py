"""The f-divergences D_f(pi || rho) = E_rho[f(x)], x = pi / rho: one small class per function f.

Each class computes, from the log-ratio l = log x,

- ``value(l)``: f(x) / x, whose mean over tokens of the policy is D;
- ``derivative(l)``: f'(x) up to a constant, the first variation of D with respect to pi;
- ``divergence(log_pi, log_rho)``: D itself, summed over the vocabulary.

Formulas that contain exp(|l|) limit l to +-``LOG_RATIO_LIMIT``: exp(40) = 2e17 is finite in float32
and so is its square, which the variance of advantages needs. Those that do not are left exact.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

LOG_RATIO_LIMIT = 40.0
LOG_2 = math.log(2.0)


def limited(log_ratio: Tensor) -> Tensor:
    """The log-ratio within the range in which its exponential is safe."""
    return log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


class FFunction(Protocol):
    """A convex f with f(1) = 0. ``divergence`` maps [N, V] to [N]; the others keep the shape."""

    def value(self, l: Tensor) -> Tensor: ...

    def derivative(self, l: Tensor) -> Tensor: ...

    def divergence(self, log_pi: Tensor, log_rho: Tensor) -> Tensor: ...


class ReverseKL:
    """f = x log x, D = KL(pi || rho)."""

    def value(self, l: Tensor) -> Tensor:
        return l

    def derivative(self, l: Tensor) -> Tensor:
        return l

    def divergence(self, log_pi: Tensor, log_rho: Tensor) -> Tensor:
        return (log_pi.exp() * (log_pi - log_rho)).sum(-1)


class ForwardKL:
    """f = -log x, D = KL(rho || pi)."""

    def value(self, l: Tensor) -> Tensor:
        l = limited(l)
        return -l * torch.exp(-l)

    def derivative(self, l: Tensor) -> Tensor:
        return -torch.exp(-limited(l))

    def divergence(self, log_pi: Tensor, log_rho: Tensor) -> Tensor:
        return (log_rho.exp() * (log_rho - log_pi)).sum(-1)


class JensenShannon:
    """f = x log x - (x + 1) log((x + 1) / 2): twice the usual Jensen-Shannon divergence."""

    def value(self, l: Tensor) -> Tensor:
        l = limited(l)
        return l - (1 + torch.exp(-l)) * (softplus(l) - LOG_2)

    def derivative(self, l: Tensor) -> Tensor:
        return LOG_2 - softplus(-l)

    def divergence(self, log_pi: Tensor, log_rho: Tensor) -> Tensor:
        l = log_pi - log_rho
        terms = log_pi.exp() * (LOG_2 - softplus(-l)) + log_rho.exp() * (LOG_2 - softplus(l))
        return terms.sum(-1)


SERIES_TERMS, SERIES_UP_TO = 14, 0.5


def expm1_minus(x: Tensor) -> Tensor:
    """exp(x) - 1 - x, by its series where |x| is small: accurate relative to its value x^2 / 2."""
    small = x.clamp(-SERIES_UP_TO, SERIES_UP_TO)
    series = torch.ones_like(x)
    for n in range(SERIES_TERMS, 2, -1):
        series = 1 + small / n * series
    return torch.where(x.abs() <= SERIES_UP_TO, small.square() / 2 * series, torch.expm1(x) - x)


class Alpha:
    """f = (x^(1-a) - (1-a) x - a) / (a (a-1)) with a strictly between 0 and 1.

    Differences of nearly equal numbers divided by a or 1 - a are never formed, so that a -> 0 gives
    rkl and a -> 1 gives fkl (in their forms with f'(1) = 0, see `value`) in float32 too. The
    formulas are those for a <= 1/2; beyond, pi and rho change places: D_a(pi || rho) =
    D_{1-a}(rho || pi).
    """

    def __init__(self, alpha: float) -> None:
        if not 0.0 < alpha < 1.0:
            raise ValueError(
                f"given alpha = {alpha}, expected a number strictly between 0 and 1: use rkl for "
                "the limit 0 and fkl for the limit 1"
            )
        self.alpha = alpha

    def value(self, l: Tensor) -> Tensor:
        """f(x) / x; its limits are exp(-l) - 1 + l (a -> 0) and 1 - exp(-l) - l exp(-l) (a -> 1):
        those of rkl and fkl plus a term of mean 0 under pi."""
        l = limited(l)
        if self.alpha <= 0.5:
            return self._value(l, self.alpha)
        return torch.exp(-l) * self._value(-l, 1 - self.alpha)

    @staticmethod
    def _value(l: Tensor, a: float) -> Tensor:
        return (expm1_minus(-l) - expm1_minus(-a * l) / a) / (1 - a)

    def derivative(self, l: Tensor) -> Tensor:
        return -torch.expm1(-self.alpha * limited(l)) / self.alpha

    def divergence(self, log_pi: Tensor, log_rho: Tensor) -> Tensor:
        a = self.alpha
        if a > 0.5:
            a, log_pi, log_rho = 1 - a, log_rho, log_pi
        l = log_pi - log_rho
        pi, rho = log_pi.exp(), log_rho.exp()
        # Each token's part is not negative: near l = 0 as pi f(x) / x, elsewhere without exp(-l),
        # which overflows where pi is 0.
        overlap = torch.where(
            (a * l).abs() < 1,
            pi * torch.expm1(-a * l.clamp(-1 / a, 1 / a)),
            torch.exp((1 - a) * log_pi + a * log_rho) - pi,
        )
        far = (rho - pi - overlap / a) / (1 - a)
        near = pi * self._value(l.clamp(-1, 1), a)
        return torch.where(l.abs() <= 1, near, far).sum(-1)


class TotalVariation:
    """f = |x - 1| / 2; at x = 1 the subgradient 0 is taken."""

    def value(self, l: Tensor) -> Tensor:
        return torch.expm1(-limited(l)).abs() / 2

    def derivative(self, l: Tensor) -> Tensor:
        return torch.sign(l) / 2

    def divergence(self, log_pi: Tensor, log_rho: Tensor) -> Tensor:
        return (log_pi.exp() - log_rho.exp()).abs().sum(-1) / 2


class ChiSquared:
    """f = (x - 1)^2."""

    def value(self, l: Tensor) -> Tensor:
        l = limited(l)
        return -torch.expm1(l) * torch.expm1(-l)

    def derivative(self, l: Tensor) -> Tensor:
        return 2 * torch.expm1(limited(l))

    def divergence(self, log_pi: Tensor, log_rho: Tensor) -> Tensor:
        difference = log_pi.exp() - log_rho.exp()
        return (difference * torch.expm1(limited(log_pi - log_rho))).sum(-1)
