"""The energy distance between next-token distributions: transport's limit of large epsilon."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dschat.regularization.base import (
    Penalty,
    PolicyRegularizer,
    checked_penalty,
    mean,
    single_reference,
)
from dschat.regularization.ground.metric import GroundMetric
from dschat.regularization.ground.token_distance import TokenDistance
from dschat.regularization.semantic.kernel_mmd import discrepancy
from dschat.regularization.sinkhorn import rows_per_block
from dschat.regularization.transport.truncation import Truncation, truncate

NUMBERS_PER_BLOCK = {"cpu": 2**21, "cuda": 2**26}
"""Numbers of a block of costs or points: memory, not the result."""


class EnergyDistance(PolicyRegularizer):
    """D = -(pi - rho)^T C (pi - rho) / 2, costs C in units of their mean.

    That is half the energy distance E c(X, Y) - E c(X, X') / 2 - E c(Y, Y') / 2, X ~ pi, Y ~ rho,
    times 2, and the limit epsilon -> infinity of the Sinkhorn divergence with the same costs (Feydy
    et al., AISTATS 2019). With g = -C (pi - rho), phi(a) = g_a - <pi, g> + D. D is never negative:
    all costs of `GroundMetric` are conditionally negative definite.

    Where a cost is a squared distance of points (``cos``, ``cos_centred``, ``cos_whitened`` without
    another power or a saturation) C need not be made: D is |Phi^T (pi - rho)|^2 / 2, exact over the
    whole vocabulary, as a `KernelMMD` without a share of the identity. Any other cost is taken on
    the Sinkhorn divergence's bins: the top_k tokens of both distributions, and the tail.

    Args:
        token_embeddings: [V', D], embeddings of the frozen reference model, V' >= V.
        top_k: tokens of each distribution that have a bin, where the cost needs bins.
        cost_type, cost_components, cost_power, cost_saturation: see `GroundMetric`.

    Raises:
        ValueError: on settings outside their range or unusable embeddings.
    """

    name = "energy_distance"

    def __init__(
        self,
        token_embeddings: Tensor,
        top_k: int = 128,
        cost_type: str = "L2",
        cost_components: int = 10,
        cost_power: float | None = None,
        cost_saturation: float | None = None,
    ) -> None:
        if top_k < 1:
            raise ValueError(f"given top_k = {top_k}, expected at least 1")
        metric = GroundMetric(
            token_embeddings, cost_type, cost_components, cost_power, cost_saturation
        )
        self.top_k = top_k
        self.distance = TokenDistance(metric)
        self._features: Tensor | None = None
        if metric.power == 2 and metric.saturation is None:
            # The cost is h |x - y|^2, and -d^T C d = 2 h |sum_i d_i x_i|^2 for sum_i d_i = 0.
            h = float(metric.of_squared(torch.ones(())))
            self._features = metric.points * math.sqrt(2 * h / metric.mean)

    @torch.no_grad()
    def __call__(
        self, policy_logits: Tensor, reference_logits: Tensor | Sequence[Tensor], actions: Tensor
    ) -> Penalty:
        """Penalise N positions: logits [N, V] twice and sampled tokens [N] int64."""
        reference_logits = single_reference(policy_logits, reference_logits, actions)
        if self._features is not None:
            token, divergence, _ = discrepancy(
                self._features, 0.0, policy_logits, reference_logits, actions
            )
            return checked_penalty(token, divergence, {})
        if policy_logits.shape[1] > len(self.distance):
            raise ValueError(
                f"given logits over {policy_logits.shape[1]} tokens and {len(self.distance)} token "
                "embeddings, expected an embedding for each: pass the reference model's own "
                "embeddings, and cut padded logits to their number"
            )
        rows = rows_per_block(policy_logits)
        parts = []
        for policy, reference, chosen in zip(
            policy_logits.split(rows),
            reference_logits.split(rows),
            actions.split(rows),
            strict=True,
        ):
            parts.append(self._on_bins(truncate(policy, reference, self.top_k), chosen))
        token, divergence, tail, drift = (torch.cat(column) for column in zip(*parts, strict=True))
        metrics = {"tail_mass": mean(tail), "tail_drift": mean(drift)}
        return checked_penalty(token, divergence, metrics)

    def _on_bins(self, cut: Truncation, actions: Tensor) -> tuple[Tensor, ...]:
        """Token penalty, divergence, mass in the tail and drift there, [n] each."""
        bins = cut.log_policy.shape[1]
        numbers = NUMBERS_PER_BLOCK.get(actions.device.type, NUMBERS_PER_BLOCK["cpu"])
        rows = max(1, numbers // (bins * max(bins, self.distance.dimension)))
        found = []
        for positions in torch.arange(len(actions), device=actions.device).split(rows):
            part = cut.rows(positions).without_empty_bins()
            policy, reference = part.log_policy.exp(), part.log_reference.exp()
            costs = self.distance.block(part.tokens, policy.dtype)
            difference = (policy - reference).unsqueeze(2)
            potential = -(costs @ difference).squeeze(2)
            divergence = (difference.squeeze(2) * potential).sum(1) / 2
            shift = ((policy + reference) * potential).sum(1) / 2
            # It is never negative; what rounding makes so is taken out of phi as well.
            shift, divergence = shift + divergence.clamp(max=0), divergence.clamp(min=0)
            place = part.bin_of(actions[positions]).unsqueeze(1)
            tail = (policy[:, -1] + reference[:, -1]) / 2
            token = potential.gather(1, place).squeeze(1) - shift
            found.append((token, divergence, tail, part.tail_drift.squeeze(1)))
        return tuple(torch.cat(column) for column in zip(*found, strict=True))
