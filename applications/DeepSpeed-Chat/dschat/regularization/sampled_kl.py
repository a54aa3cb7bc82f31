"""KL at the sampled token where other trainers put it: in the reward, or in the loss.

Let l = log pi(a) - log rho(a) for a token a drawn from pi.

In the reward (PPO and REINFORCE++ of OpenRLHF, verl's `use_kl_in_reward`): the token's reward is
-coefficient * k(l). For k1 the policy gradient is that of the summed KL, as `KLDivergence`. k2 and
k3 have KL's mean up to order 2 (k3 exactly), and not its gradient: near the reference both are even
in l, so that what became rarer is charged like what became likelier, and the gradient of the step
itself is of the second order. Peers offer it all the same; here it is measured, see
tests/online/test_sampled_kl.py.

In the loss (TRL's GRPO, verl's `use_kl_loss`, OpenRLHF's `use_kl_loss`): coefficient * k(l) is
added to the policy's loss and differentiated. With states held fixed and tokens from the current
policy, E[grad k2] is the gradient of KL(pi || rho), E[grad k3] that of the forward KL(rho || pi),
and E[grad k1] is 0. All of them leave out how a token changes the states that follow: it is the
gradient of sum_t E_s[sg] KL_t, not of E[sum_t KL_t]. After the first optimizer step on a batch the
tokens are no longer the policy's, and k2 and k3 are biased further (no ratio enters, as in verl and
OpenRLHF; TRL 1.16 multiplies k3 by it, which gives the gradient of KL(pi || rho)).

Top-k (Zhang and Ba, EMA-PG, arXiv 2602.04417): the divergence is summed, and differentiated, over
the k likeliest tokens S of the policy that sampled, and the rest is estimated from the token if it
lies outside S. For D_f = E_rho f(x):

    sum_{a in S} rho(a) f(x_a)  +  1[a_t not in S] r_t f(x_t) / x_t

with the gradient of the second term taken as 1[a_t not in S] r_t f'(x_t) grad log pi(a_t), r_t the
probability ratio to the policy that sampled. Value and gradient are unbiased for every k and every
f at the states visited, also after the first step on a batch; memory is O(k) a position. Their
estimator is given for the two KLs; for other f, and the ratio r_t, the derivation is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dschat.regularization.base import (
    Candidates,
    Penalty,
    PolicyRegularizer,
    at_actions,
    checked_penalty,
    log_probabilities,
    mean,
    single_reference,
)
from dschat.regularization.divergences import F_FUNCTIONS, KL_ESTIMATORS
from dschat.regularization.f_functions import FFunction, ReverseKL


class SampledKL(PolicyRegularizer):
    """k1, k2 or k3 as the token's reward; or, for a term of the loss, what that needs.

    The reported divergence is that of the whole vocabulary, exact.

    Args:
        kl_placement: "reward" or "loss". With "loss" the token penalty is 0, and
            `sampled_divergence` is added to the loss.
        kl_term: "k1", "k2", "k3" or "top_k".
        top_k: with the last, the number of `Candidates`.
        loss_divergence: with it, a name of `F_FUNCTIONS`.
    """

    name = "sampled_kl"

    def __init__(
        self,
        kl_placement: str = "reward",
        kl_term: str = "k1",
        top_k: int = 64,
        loss_divergence: str = "rkl",
    ) -> None:
        allowed = {"reward": ("k1", "k2", "k3"), "loss": ("k2", "k3", "top_k")}
        if kl_term not in allowed.get(kl_placement, ()):
            raise ValueError(
                f"given kl_placement {kl_placement!r} and kl_term {kl_term!r}, expected one of "
                f"{allowed}"
            )
        self.term = kl_term if kl_placement == "reward" else None
        self.top_k = top_k if kl_term == "top_k" else None
        self.exact: FFunction = ReverseKL()
        if kl_term == "top_k":
            self.exact = F_FUNCTIONS[loss_divergence](0.5)

    def __call__(
        self, policy_logits: Tensor, reference_logits: Tensor | Sequence[Tensor], actions: Tensor
    ) -> Penalty:
        """Penalise N positions: logits [N, V] twice and sampled tokens [N] int64."""
        reference_logits = single_reference(policy_logits, reference_logits, actions)
        log_pi, log_rho = log_probabilities(policy_logits), log_probabilities(reference_logits)
        log_ratio = at_actions(log_pi, actions) - at_actions(log_rho, actions)
        token = torch.zeros_like(log_ratio)
        if self.term is not None:
            token = KL_ESTIMATORS[self.term](log_ratio)
        divergence = self.exact.divergence(log_pi, log_rho).clamp(min=0)
        metrics = {"log_ratio": mean(log_ratio), "token_penalty": mean(token)}
        candidates = None
        if self.top_k is not None:
            tokens = log_pi.topk(min(self.top_k, log_pi.shape[1]), dim=1).indices
            candidates = Candidates(tokens.int(), log_rho.gather(1, tokens))
            metrics["outside_top_k"] = 1.0 - mean((tokens == actions.unsqueeze(1)).any(1).float())
        penalty = checked_penalty(token, divergence, metrics)
        return Penalty(penalty.token, penalty.divergence, penalty.metrics, candidates)

    def warning(self) -> str | None:
        """What to tell the user of the estimates whose policy gradient is not KL's."""
        if self.term not in ("k2", "k3"):
            return None
        return (
            f"--kl_term {self.term} in the reward measures KL, but as a reward its policy gradient "
            "near the reference is KL's times about the drift of a log-probability: it hardly "
            "pulls the policy back. --kl_term k1 in the reward has KL's gradient."
        )


def sampled_divergence(term: str, logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """k2 or k3 at sampled tokens, for the loss.

    Args:
        term: "k2" or "k3".
        logprobs: [...] log pi of the tokens, differentiable. reference_logprobs: [...].

    Returns:
        [...], differentiable.
    """
    return KL_ESTIMATORS[term](logprobs - reference_logprobs)


def top_k_divergence(
    f: FFunction,
    logprobs: Tensor,
    old_logprobs: Tensor,
    reference_logprobs: Tensor,
    candidate_logprobs: Tensor,
    candidate_reference_logprobs: Tensor,
    inside: Tensor,
) -> Tensor:
    """The estimate of D_f at N positions, unbiased in value and gradient (see the module).

    Args:
        f: of `F_FUNCTIONS`.
        logprobs: [N] log pi of the sampled tokens, differentiable. old_logprobs: [N] under the
            policy that sampled them. reference_logprobs: [N].
        candidate_logprobs: [N, k] log pi of the candidates, differentiable.
        candidate_reference_logprobs: [N, k].
        inside: [N] bool, the sampled token is a candidate.

    Returns:
        [N], differentiable.
    """
    # rho f(x) = pi f(x) / x, whose derivative by pi is f'(x). `derivative` leaves a constant out:
    # all tokens must leave out the same, so none of it is left to autograd.
    log_x = candidate_logprobs.detach() - candidate_reference_logprobs
    head = _with_slope(candidate_logprobs.exp(), f.value(log_x), f.derivative(log_x))
    ratio, log_x = (logprobs - old_logprobs).exp(), logprobs.detach() - reference_logprobs
    tail = _with_slope(ratio, f.value(log_x), f.derivative(log_x))
    return head.sum(1) + torch.where(inside, torch.zeros_like(tail), tail)


def _with_slope(weight: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    """weight * value as a number; its gradient is slope * grad weight."""
    return weight.detach() * (value - slope) + weight * slope
