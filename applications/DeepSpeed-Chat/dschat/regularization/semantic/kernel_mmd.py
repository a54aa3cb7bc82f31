"""Kernel MMD between next-token distributions: how far their mean embeddings are apart."""

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
    mean,
    single_reference,
)
from dschat.regularization.ground.metric import GroundMetric

NUMBERS_PER_BLOCK = {"cpu": 2**22, "cuda": 2**26}
"""Probabilities of a block of positions: memory, not the result."""


class KernelMMD(PolicyRegularizer):
    """Half the squared maximum mean discrepancy under K = Phi Phi^T + identity_share 1.

    Rows of Phi are the tokens' points, shifted to mean 0 and scaled to a mean squared length of 1.
    With d = pi - rho and m = Phi^T d (Gretton et al., JMLR 2012):

        D = |m|^2 / 2 + identity_share |d|^2 / 2,      g = Phi m + identity_share d,
        phi(a) = g_a - <pi, g> + D.

    g is the first variation of D, and phi its shift to mean D. Without a share of the identity the
    penalty sees the mean embedding alone: distributions whose means agree are at distance 0. D is
    bounded, quadratic, and has no barrier: a token that the reference excludes costs no more than
    its distance. One product with Phi takes the whole vocabulary in.

    Args:
        token_embeddings: [V', D], embeddings of the frozen reference model, V' >= V.
        identity_share: weight of the identity beside Phi Phi^T, at least 0.
        cost_type: what points are made of, see `GroundMetric`. cost_components: likewise.

    Raises:
        ValueError: on settings outside their range or unusable embeddings.
    """

    name = "kernel_mmd"

    def __init__(
        self,
        token_embeddings: Tensor,
        identity_share: float = 0.1,
        cost_type: str = "cos",
        cost_components: int = 10,
    ) -> None:
        if not 0 <= identity_share < math.inf:
            raise ValueError(f"given identity_share = {identity_share}, expected 0 or more")
        metric = GroundMetric(token_embeddings, cost_type, cost_components)
        self.identity_share = identity_share
        # |x_i - x_j|^2 of points with mean 0 and mean squared length 1 has the mean 2.
        points = metric.points - metric.points[metric.used].mean(0)
        length = float(points[metric.used].double().square().sum(1).mean())
        self.features = points / math.sqrt(length)

    @torch.no_grad()
    def __call__(
        self, policy_logits: Tensor, reference_logits: Tensor | Sequence[Tensor], actions: Tensor
    ) -> Penalty:
        """Penalise N positions: logits [N, V] twice and sampled tokens [N] int64."""
        reference_logits = single_reference(policy_logits, reference_logits, actions)
        token, divergence, plain = discrepancy(
            self.features, self.identity_share, policy_logits, reference_logits, actions
        )
        return checked_penalty(token, divergence, {"identity_part": mean(plain)})


def discrepancy(
    features: Tensor,
    identity_share: float,
    policy_logits: Tensor,
    reference_logits: Tensor,
    actions: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Token penalty, divergence and the divergence's share of the identity, see `KernelMMD`.

    Args:
        features: [V', P], V' >= V, the rows of Phi.
        policy_logits, reference_logits: [N, V]. actions: [N] int64.

    Returns:
        [N] each, float32; float64 where the logits are.

    Raises:
        ValueError: there are fewer rows than tokens.
    """
    vocabulary = policy_logits.shape[1]
    if vocabulary > len(features):
        raise ValueError(
            f"given logits over {vocabulary} tokens and {len(features)} token embeddings, expected "
            "an embedding for each: pass the reference model's own embeddings, and cut padded "
            "logits to their number"
        )
    dtype = torch.promote_types(policy_logits.dtype, torch.float32)
    features = features[:vocabulary].to(dtype)
    numbers = NUMBERS_PER_BLOCK.get(actions.device.type, NUMBERS_PER_BLOCK["cpu"])
    rows = max(1, numbers // vocabulary)
    parts = []
    for policy, reference, chosen in zip(
        policy_logits.split(rows), reference_logits.split(rows), actions.split(rows), strict=True
    ):
        total = reference.softmax(1, dtype=dtype)
        difference = policy.softmax(1, dtype=dtype).sub_(total)
        total.mul_(2).add_(difference)  # pi + rho
        means = difference @ features
        # <pi, g> - D = <(pi + rho) / 2, g>, since D = <pi - rho, g> / 2.
        shift = ((total @ features) * means).sum(1)
        shift = (shift + identity_share * (total * difference).sum(1)) / 2
        of_action = (features[chosen] * means).sum(1)
        of_action = of_action + identity_share * at_actions(difference, chosen)
        plain = identity_share * difference.square().sum(1) / 2
        parts.append((of_action - shift, means.square().sum(1) / 2 + plain, plain))
    token, divergence, plain = (torch.cat(column) for column in zip(*parts, strict=True))
    return token, divergence, plain
