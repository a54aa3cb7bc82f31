"""Kullback-Leibler and other f-divergences as policy regularisers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
from dschat.regularization.f_functions import (
    Alpha,
    ChiSquared,
    FFunction,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    TotalVariation,
    limited,
)

PUBLISHED_REWARD_CLIP = 2.5
"""Bound of the per-token reward in the published KL baselines (Na et al., arXiv 2602.01685)."""

KL_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda l: l,
    "k2": lambda l: l.square() / 2,
    "k3": lambda l: torch.expm1(-limited(l)) + l,
}
"""Estimates of KL(pi || rho) from the log-ratio of a token sampled from pi."""

F_FUNCTIONS: dict[str, Callable[[float], FFunction]] = {
    "rkl": lambda _: ReverseKL(),
    "fkl": lambda _: ForwardKL(),
    "js": lambda _: JensenShannon(),
    "alpha": Alpha,
    "tv": lambda _: TotalVariation(),
    "chi": lambda _: ChiSquared(),
}

CONTROL_VARIATES: dict[str, Callable[[Tensor], Tensor]] = {
    "rkl": lambda l: torch.expm1(-limited(l)),
    "fkl": lambda l: -torch.expm1(-limited(l)),
}
"""Terms of mean zero under pi that lower the variance of the value estimators."""

OPPOSITE = (
    "near the reference it is the opposite (cosine -1 to the true one in benchmarks/value_forms.py)"
    ": the penalty drives the policy away from the reference"
)
ORTHOGONAL = (
    "near the reference the two are orthogonal (cosine 0 in benchmarks/value_forms.py), as tokens "
    "that became rarer are charged like those that became likelier: it hardly pulls the policy back"
)
POINTS_AWAY = ", and farther off it points away from the reference"


def _choose(given: str, names: Sequence[str], what: str) -> str:
    if given not in names:
        raise ValueError(f"given {what} {given!r}, expected one of {', '.join(names)}")
    return given


class KLDivergence(PolicyRegularizer):
    """Reverse KL(pi || rho); the token penalty is the log-ratio log pi(a) - log rho(a).

    Args:
        estimator: what is reported as the divergence: ``k1`` the log-ratio l, ``k2`` l^2 / 2,
            ``k3`` exp(-l) - 1 + l, ``exact`` the sum over the vocabulary. The token penalty, and
            so the gradient, does not depend on it.
        reward_clip: bound of the per-token reward ``-coefficient * token``; None for none.
    """

    name = "kl"

    def __init__(self, estimator: str = "k1", reward_clip: float | None = None) -> None:
        self.estimator = _choose(estimator, [*KL_ESTIMATORS, "exact"], "KL estimator")
        self.reward_clip = reward_clip

    def __call__(
        self, policy_logits: Tensor, reference_logits: Tensor | Sequence[Tensor], actions: Tensor
    ) -> Penalty:
        """Penalise N positions: logits [N, V] twice and sampled tokens [N] int64."""
        reference_logits = single_reference(policy_logits, reference_logits, actions)
        log_pi, log_rho = log_probabilities(policy_logits), log_probabilities(reference_logits)
        log_ratio = at_actions(log_pi, actions) - at_actions(log_rho, actions)
        if self.estimator == "exact":
            divergence = ReverseKL().divergence(log_pi, log_rho).clamp(min=0)
        else:
            divergence = KL_ESTIMATORS[self.estimator](log_ratio)
        return checked_penalty(log_ratio, divergence, {"log_ratio": mean(log_ratio)})


class FDivergence(PolicyRegularizer):
    """f-divergence E_rho[f(pi / rho)] in the published or in the unbiased form.

    With ``form="value"`` the token penalty is f(x) / x at the sampled token, as the baselines
    published with Na et al. (ICLR 2026, arXiv 2602.01685) have it, with the reward clipped to
    +-2.5. Its mean is D, but used as a reward its gradient is not that of D, except for ``rkl``.
    With ``form="gradient"`` it is the first variation f'(x) shifted so that its mean over the
    policy is D: then the policy gradient of the summed rewards is unbiased, and nothing is clipped.
    The reported divergence is D, summed over the vocabulary, in both.

    Args:
        name: ``rkl`` or ``fkl`` (reverse and forward KL), ``js`` (twice Jensen-Shannon),
            ``alpha``, ``tv`` (total variation) or ``chi`` (chi squared).
        alpha: the parameter of ``alpha``, strictly between 0 and 1.
        form: ``value`` or ``gradient``.
        low_variance: add exp(-l) - 1 to ``rkl`` or its negative to ``fkl`` (value form only).

    Raises:
        ValueError: on an unknown name or form, or options that would have no meaning.
    """

    def __init__(
        self, name: str, alpha: float = 0.5, form: str = "value", low_variance: bool = False
    ) -> None:
        self.name = _choose(name, list(F_FUNCTIONS), "f-divergence")
        self.form = _choose(form, ["value", "gradient"], "form of the f-divergence")
        if low_variance and (name not in CONTROL_VARIATES or form != "value"):
            raise ValueError(
                f"given the low-variance estimator for {name!r} in the {form} form, expected rkl "
                "or fkl in the value form: drop it or change the divergence"
            )
        self.low_variance = low_variance
        self.reward_clip = PUBLISHED_REWARD_CLIP if form == "value" else None
        self._f = F_FUNCTIONS[name](alpha)
        self._alpha_is_large = name == "alpha" and alpha >= 0.5

    def __call__(
        self, policy_logits: Tensor, reference_logits: Tensor | Sequence[Tensor], actions: Tensor
    ) -> Penalty:
        """Penalise N positions: logits [N, V] twice and sampled tokens [N] int64."""
        reference_logits = single_reference(policy_logits, reference_logits, actions)
        log_pi, log_rho = log_probabilities(policy_logits), log_probabilities(reference_logits)
        log_ratio = at_actions(log_pi, actions) - at_actions(log_rho, actions)
        # Rounding may leave nearly equal distributions a hair below zero.
        divergence = self._f.divergence(log_pi, log_rho).clamp(min=0)
        if self.form == "value":
            token = self._value(log_ratio)
        else:
            expected = (log_pi.exp() * self._f.derivative(log_pi - log_rho)).sum(-1)
            token = self._f.derivative(log_ratio) + (divergence - expected)
        metrics = {"log_ratio": mean(log_ratio), "token_penalty": mean(token)}
        return checked_penalty(token, divergence, metrics)

    def warning(self) -> str | None:
        """What to tell the user of a form whose policy gradient is not the divergence's."""
        if self.form != "value" or (self.name == "rkl" and not self.low_variance):
            return None
        flags = f"--f_div {self.name}" + (" --f_div_low_var" if self.low_variance else "")
        why = OPPOSITE if self.name == "fkl" and not self.low_variance else ORTHOGONAL
        if why is ORTHOGONAL and (self.name in ("fkl", "js", "tv") or self._alpha_is_large):
            why += POINTS_AWAY
        change = "--f_div_form gradient" + (", without --f_div_low_var" * self.low_variance)
        return (
            f"{flags} in the published value form (--f_div_form value) measures the divergence "
            f"without bias, but as a reward its policy gradient is not the divergence's: {why}. "
            f"For the true gradient give {change}."
        )

    def _value(self, log_ratio: Tensor) -> Tensor:
        value = self._f.value(log_ratio)
        if self.low_variance:
            value = value + CONTROL_VARIATES[self.name](log_ratio)
        return value
