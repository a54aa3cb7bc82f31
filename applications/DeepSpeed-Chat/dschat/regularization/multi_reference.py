"""Several references: the weighted sum of the divergences from each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dschat.regularization.base import (
    Penalty,
    PolicyRegularizer,
    log_probabilities,
    mean,
    with_defaults,
)

WEIGHT_TOLERANCE = 1e-6


def checked_weights(weights: Sequence[float]) -> list[float]:
    """The weights as floats; ValueError unless they are a distribution."""
    weights = [float(weight) for weight in weights]
    proper = all(math.isfinite(weight) and weight >= 0 for weight in weights)
    if not proper or abs(sum(weights) - 1) > WEIGHT_TOLERANCE:
        raise ValueError(
            f"given reference weights {weights} with sum {sum(weights):g}, expected one number "
            "from 0 to 1 per reference with sum 1: divide each by their sum"
        )
    return weights


class MultiReference(PolicyRegularizer):
    """sum_k w_k D(pi, rho_k), with the token penalty sum_k w_k phi_k.

    For the reverse KL this is the exact per-token form of the objective of Aminian et al.
    (arXiv 2502.01203): log pi(a) - sum_k w_k log rho_k(a). No normaliser per token enters: that of
    the geometric mean of the references belongs to the whole sequence and is a constant.

    Where the inner regulariser has ``uses_support``, all references share one support.

    Args:
        regularizer: the divergence from one reference.
        weights: one per reference, not negative, with sum 1.

    Raises:
        ValueError: on weights that are no distribution.
    """

    def __init__(self, regularizer: PolicyRegularizer, weights: Sequence[float]) -> None:
        self.weights = checked_weights(weights)
        self.regularizer = with_defaults(regularizer)
        self.name = f"multi_reference_{self.regularizer.name}"
        self.reward_clip = self.regularizer.reward_clip
        self.uses_support = self.regularizer.uses_support

    def __call__(
        self,
        policy_logits: Tensor,
        reference_logits: Tensor | Sequence[Tensor],
        actions: Tensor,
        **options: Any,
    ) -> Penalty:
        """Penalise N positions.

        Args:
            policy_logits: [N, V].
            reference_logits: K tensors [N, V_k] in the order of the weights. Widths that differ by
                padding are cut to the smallest, the policy's too.
            actions: [N] int64.
            options: passed on to the inner regulariser, such as ``support``.
        """
        policy_logits, references = self._cut(policy_logits, reference_logits)
        return self.combine(
            [self.regularizer(policy_logits, r, actions, **options) for r in references]
        )

    def combine(self, penalties: Sequence[Penalty]) -> Penalty:
        """The weighted sum of K penalties at the same positions, in the order of the weights.

        For callers that ask one reference after the other. Metrics get the suffix ``/ref_k``.
        """
        token: Tensor | float = 0.0
        divergence: Tensor | float = 0.0
        metrics: dict[str, float] = {}
        for k, (weight, penalty) in enumerate(zip(self.weights, penalties, strict=True)):
            token = token + weight * penalty.token
            divergence = divergence + weight * penalty.divergence
            metrics[f"divergence/ref_{k}"] = mean(penalty.divergence)
            metrics |= {f"{name}/ref_{k}": value for name, value in penalty.metrics.items()}
        assert isinstance(token, Tensor)
        assert isinstance(divergence, Tensor)
        return Penalty(token, divergence, metrics)

    def collect_support(
        self,
        policy_logits: Tensor,
        reference_logits: Tensor | Sequence[Tensor],
        token_ids: Tensor,
        support: Tensor | None = None,
    ) -> Tensor:
        """Support over all references; arguments as in the inner regulariser."""
        policy_logits, references = self._cut(policy_logits, reference_logits)
        return self.regularizer.collect_support(policy_logits, references, token_ids, support)

    def first_report(self, metrics: Mapping[str, float], coefficient: float) -> str | None:
        """What the inner regulariser says of the weighted means of its metrics."""
        means: dict[str, float] = {}
        for k, weight in enumerate(self.weights):
            for name, value in metrics.items():
                if name.startswith("penalty/") and name.endswith(f"/ref_{k}"):
                    inner_name = name.removesuffix(f"/ref_{k}")
                    means[inner_name] = means.get(inner_name, 0.0) + weight * value
        return self.regularizer.first_report({**metrics, **means}, coefficient)

    def _cut(
        self, policy_logits: Tensor, reference_logits: Tensor | Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        return shared_width(policy_logits, reference_logits, len(self.weights))


def shared_width(
    policy_logits: Tensor, reference_logits: Tensor | Sequence[Tensor], references: int
) -> tuple[Tensor, list[Tensor]]:
    """The logits cut to the smallest width, which drops padding of the vocabulary.

    Raises:
        ValueError: unless there are ``references`` reference logits in a sequence.
    """
    if isinstance(reference_logits, Tensor) or len(reference_logits) != references:
        given = 1 if isinstance(reference_logits, Tensor) else len(reference_logits)
        raise ValueError(
            f"given {given} reference logits (a sequence is needed) and {references} "
            "weights, expected a sequence with one tensor [N, V] per weight"
        )
    shared = min(logits.shape[-1] for logits in (policy_logits, *reference_logits))
    return policy_logits[..., :shared], [logits[..., :shared] for logits in reference_logits]


class MixtureReference(PolicyRegularizer):
    """D(pi(.|s), rhobar(.|s)), rhobar = sum_k w_k rho_k the mixture of references over sequences.

    Within a response the mixture's weights are those of the references given its earlier tokens:
    w_k times the probability that reference k gives to them, normalised. With the forward KL this
    is the per-state surrogate of the forward-KL objective of Aminian et al. (arXiv 2502.01203): at
    each state the right divergence, but over the policy's states in the place of the references'.

    Args:
        regularizer: the divergence from one reference; without a shared support.
        weights: one per reference, not negative, with sum 1.

    Raises:
        ValueError: on weights that are no distribution, or a regulariser with a shared support.
    """

    needs_all_references = True

    def __init__(self, regularizer: PolicyRegularizer, weights: Sequence[float]) -> None:
        self.regularizer = with_defaults(regularizer)
        if self.regularizer.uses_support:
            raise ValueError(
                f"given {self.regularizer.name}, expected a divergence without a shared support: "
                "use MultiReference"
            )
        self.weights = checked_weights(weights)
        self.name = f"mixture_reference_{self.regularizer.name}"
        self.reward_clip = self.regularizer.reward_clip

    def __call__(
        self,
        policy_logits: Tensor,
        reference_logits: Tensor | Sequence[Tensor],
        actions: Tensor,
        prefix_logprobs: Tensor | None = None,
    ) -> Penalty:
        """Penalise N positions.

        Args:
            policy_logits: [N, V]. reference_logits: K tensors [N, V_k]. actions: [N] int64.
            prefix_logprobs: [N, K], log-probability of the response's earlier tokens under each
                reference; None stands for no earlier tokens.
        """
        policy_logits, references = shared_width(policy_logits, reference_logits, len(self.weights))
        # Sums over a response's tokens: in bf16 those of hundreds would be rounded to steps of 2.
        log_weights = torch.tensor(self.weights, dtype=torch.float64, device=actions.device).log()
        log_weights = log_weights.expand(len(actions), -1)
        if prefix_logprobs is not None:
            log_weights = (log_weights + prefix_logprobs.double()).log_softmax(dim=1)
        log_weights = log_weights.to(torch.promote_types(policy_logits.dtype, torch.float32))
        mixture = torch.full_like(policy_logits, -torch.inf, dtype=log_weights.dtype)
        for k, logits in enumerate(references):
            mixture = torch.logaddexp(
                mixture, log_weights[:, k : k + 1] + log_probabilities(logits)
            )
        penalty = self.regularizer(policy_logits, mixture, actions)
        shares = {f"weight/ref_{k}": mean(log_weights[:, k].exp()) for k in range(len(references))}
        return Penalty(penalty.token, penalty.divergence, penalty.metrics | shares)
