"""Several references: the weighted sum of the divergences from each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from dschat.regularization.base import Penalty, PolicyRegularizer, mean

WEIGHT_TOLERANCE = 1e-6


class MultiReference:
    """sum_k w_k D(pi, rho_k), with the token penalty sum_k w_k phi_k.

    For the reverse KL this is the exact per-token form of the objective of Aminian et al.
    (arXiv 2502.01203): log pi(a) - sum_k w_k log rho_k(a). No normaliser per token enters: that of
    the geometric mean of the references belongs to the whole sequence and is a constant.

    ``collect_support`` exists where the inner regulariser has it; all references then share one
    support.

    Args:
        regularizer: the divergence from one reference.
        weights: one per reference, not negative, with sum 1.

    Raises:
        ValueError: on weights that are no distribution.
    """

    collect_support: Callable[..., Tensor]

    def __init__(self, regularizer: PolicyRegularizer, weights: Sequence[float]) -> None:
        weights = [float(weight) for weight in weights]
        proper = all(math.isfinite(weight) and weight >= 0 for weight in weights)
        if not proper or abs(sum(weights) - 1) > WEIGHT_TOLERANCE:
            raise ValueError(
                f"given reference weights {weights} with sum {sum(weights):g}, expected one number "
                "from 0 to 1 per reference with sum 1: divide each by their sum"
            )
        self.regularizer, self.weights = regularizer, weights
        self.name = f"multi_reference_{regularizer.name}"
        self.reward_clip = regularizer.reward_clip
        if hasattr(regularizer, "collect_support"):
            self.collect_support = self._collect_support

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
        token: Tensor | float = 0.0
        divergence: Tensor | float = 0.0
        metrics: dict[str, float] = {}
        for k, (weight, reference) in enumerate(zip(self.weights, references, strict=True)):
            penalty = self.regularizer(policy_logits, reference, actions, **options)
            token = token + weight * penalty.token
            divergence = divergence + weight * penalty.divergence
            metrics[f"divergence/ref_{k}"] = mean(penalty.divergence)
            metrics |= {f"{name}/ref_{k}": value for name, value in penalty.metrics.items()}
        assert isinstance(token, Tensor)
        assert isinstance(divergence, Tensor)
        return Penalty(token, divergence, metrics)

    def _collect_support(
        self,
        policy_logits: Tensor,
        reference_logits: Tensor | Sequence[Tensor],
        token_ids: Tensor,
        support: Tensor | None = None,
    ) -> Tensor:
        """Support over all references; arguments as in the inner regulariser."""
        policy_logits, references = self._cut(policy_logits, reference_logits)
        inner: Any = self.regularizer
        return inner.collect_support(policy_logits, references, token_ids, support)

    def _cut(
        self, policy_logits: Tensor, reference_logits: Tensor | Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        if isinstance(reference_logits, Tensor) or len(reference_logits) != len(self.weights):
            given = 1 if isinstance(reference_logits, Tensor) else len(reference_logits)
            raise ValueError(
                f"given {given} reference logits (a sequence is needed) and {len(self.weights)} "
                "weights, expected a sequence with one tensor [N, V] per weight"
            )
        shared = min(logits.shape[-1] for logits in (policy_logits, *reference_logits))
        return policy_logits[..., :shared], [logits[..., :shared] for logits in reference_logits]
