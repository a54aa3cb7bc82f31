"""The ground metric: what it costs to take one token for another."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from dschat.regularization.ground.nearest import nearest_differing
from dschat.regularization.ground.points import COST_TYPES, token_points
from dschat.regularization.ground.used_tokens import sample_of_tokens, used_tokens

SAMPLED_TOKENS = 1024
SAMPLE_SEED = 0
ROWS_PER_BLOCK = 4096


class GroundMetric:
    """Costs between tokens, a function of the distance of points made from their embeddings.

    With d the L2 distance of embeddings, or d^2 = 1 - cosine, a cost is d^p; with a saturation s,
    it is 1 - exp(-d^p / (s m)), m the mean d^p of pairs of tokens. The default powers are the
    published costs: d for ``L2``, d^2 = 1 - cosine for the others.

    All of these are conditionally negative definite: sum_ij w_i w_j C_ij <= 0 for weights w with
    sum 0. Schoenberg ("Metric spaces and positive definite functions", Transactions of the AMS 44,
    1938): |x - y|^p is, for 0 < p <= 2 (and not beyond: see the test), where x and y are points
    of a Euclidean space, as those behind 1 - cosine = |u - v|^2 / 2 of unit vectors are; and
    exp(-t C) is a positive definite kernel for every t > 0 if and only if C is conditionally
    negative definite. Hence 1 - exp(-t C) is as well: w' (1 - K) w = -w' K w for weights with sum
    0. And the debiased Sinkhorn divergence of such a cost is never negative, for every epsilon
    (Feydy et al., AISTATS 2019, theorem 1, whose condition is that exp(-C / epsilon) is positive
    definite). The tail of `TokenDistance` keeps it.

    Args:
        embeddings: [V, D] floating point, finite; float64 stays, all else becomes float32.
        cost_type: ``L2``, ``cos``, ``cos_centred`` or ``cos_whitened``, see `token_points`.
        components: principal components that ``cos_centred`` removes.
        power: p above, in (0, 2]; None: 1 for ``L2``, 2 for the others.
        saturation: s above, positive; None: costs are not bounded.

    Attributes:
        points: [V, P], see `token_points`. squared_norms: [V] of these.
        used: [V] bool, tokens in use, see `used_tokens`.
        key: all that determines the costs beside the embeddings.

    Raises:
        ValueError: on embeddings that give no distances or settings outside their range.
    """

    def __init__(
        self,
        embeddings: Tensor,
        cost_type: str = "L2",
        components: int = 10,
        power: float | None = None,
        saturation: float | None = None,
    ) -> None:
        _check(embeddings, cost_type, power, saturation)
        embeddings = embeddings.detach()
        self.cost_type, self.components, self.saturation = cost_type, components, saturation
        published = 1.0 if cost_type == "L2" else 2.0
        self.power = published if power is None else float(power)
        self.used = used_tokens(embeddings)
        self.points = token_points(embeddings, cost_type, components, self.used)
        self.squared_norms = self.points.square().sum(1)
        self.key = cost_type if cost_type != "cos_centred" else f"{cost_type} {components}"
        if self.power != published or saturation is not None:
            self.key += f" power {self.power!r} saturation {saturation!r}"

    def __len__(self) -> int:
        return len(self.points)

    @property
    def dimension(self) -> int:
        """Length of the vectors between which distances are taken."""
        return self.points.shape[1]

    def features(self) -> Tensor | None:
        """Points [V, P] whose squared distances over 2 are the costs; None where there are none."""
        if self.power != 2 or self.saturation is not None:
            return None
        return self.points if self.cost_type != "L2" else 2**0.5 * self.points

    def cost(self, left: Tensor, right: Tensor) -> Tensor:
        """Costs [..., n, m] between tokens [..., n] and [..., m]; 0 from a token to itself."""
        return self.of_squared(self._squared(left, right))

    def of_squared(self, squared: Tensor) -> Tensor:
        """Costs from squared distances of `points`, in the same order."""
        costs = self._unsaturated(squared)
        if self.saturation is None:
            return costs
        return -torch.expm1(costs / (-self.saturation * self._scale))

    def nearest_costs(self, tokens: Tensor) -> Tensor:
        """[n], the cost from each of the used `tokens` to the nearest other used token.

        Tokens of the same embedding do not count; inf where there is no other.
        """
        found = nearest_differing(self.points, self.squared_norms, self.used, tokens)
        return self.of_squared(found)

    @cached_property
    def nearest(self) -> float:
        """Median over a fixed sample of used tokens of `nearest_costs`; 0 where none differ."""
        costs = self.nearest_costs(sample_of_tokens(self.used))
        finite = costs[torch.isfinite(costs)]
        return float(finite.median()) if len(finite) else 0.0

    @cached_property
    def to_sample(self) -> Tensor:
        """[V], the mean cost from each token to a fixed random sample of used tokens."""
        tokens = torch.arange(len(self), device=self.used.device)
        sample = self._sample
        return torch.cat([self.cost(ids, sample).mean(-1) for ids in tokens.split(ROWS_PER_BLOCK)])

    @cached_property
    def mean(self) -> float:
        """Mean cost of random pairs of used tokens.

        Raises:
            ValueError: where it is 0 or not finite.
        """
        in_use, sampled = int(self.used.sum()), len(self._sample)
        # The sample meets itself at cost 0: leave those pairs out of the mean.
        pairs = in_use * sampled - sampled
        mean = float(self.to_sample[self.used].double().sum()) * sampled / pairs
        if not 0 < mean < float("inf"):
            raise ValueError(
                f"given embeddings with mean distance {mean}, expected a finite one above 0: "
                "the model folder is damaged or its embedding was not gathered"
            )
        return mean

    @cached_property
    def _sample(self) -> Tensor:
        generator = torch.Generator().manual_seed(SAMPLE_SEED)
        order = torch.randperm(len(self), generator=generator).to(self.used.device)
        return order[self.used[order]][:SAMPLED_TOKENS]

    @cached_property
    def _scale(self) -> float:
        """Mean unsaturated cost of pairs of the sample."""
        sample = self._sample
        costs = self._unsaturated(self._squared(sample, sample)).double()
        return float(costs.sum()) / (len(sample) * (len(sample) - 1)) or 1.0

    def _unsaturated(self, squared: Tensor) -> Tensor:
        if self.cost_type != "L2":
            squared = squared / 2
        if self.power == 2:
            return squared
        return squared.sqrt() if self.power == 1 else squared.pow(self.power / 2)

    def _squared(self, left: Tensor, right: Tensor) -> Tensor:
        points = self.points[left]
        products = points @ (points if right is left else self.points[right]).mT
        norms = self.squared_norms[left].unsqueeze(-1) + self.squared_norms[right].unsqueeze(-2)
        squared = torch.add(norms, products, alpha=-2).clamp_(min=0)
        return squared.masked_fill_(left.unsqueeze(-1) == right.unsqueeze(-2), 0.0)


def at_most_float32(embeddings: Tensor) -> Tensor:
    """The embeddings, float64 as float32: what keeps the nearest tokens is float32."""
    return embeddings.float() if embeddings.dtype == torch.float64 else embeddings


def _check(
    embeddings: Tensor, cost_type: str, power: float | None, saturation: float | None
) -> None:
    if embeddings.dim() != 2 or len(embeddings) < 2 or not embeddings.is_floating_point():
        raise ValueError(
            f"given embeddings {tuple(embeddings.shape)} of {embeddings.dtype}, expected a "
            "floating-point matrix [V, D] with V >= 2: pass the weight of the input embedding "
            "(gathered, if it is partitioned)"
        )
    if cost_type not in COST_TYPES:
        raise ValueError(f"given cost type {cost_type!r}, expected one of {', '.join(COST_TYPES)}")
    if power is not None and not 0 < power <= 2:
        raise ValueError(
            f"given power {power} of the distance, expected one above 0, at most 2: beyond, costs "
            "are not conditionally negative definite, and a divergence can be negative"
        )
    if saturation is not None and not 0 < saturation < float("inf"):
        raise ValueError(f"given saturation {saturation}, expected a finite number above 0")
    if not bool(torch.isfinite(embeddings).all()):
        raise ValueError(
            "given embeddings with NaN or infinity, expected finite ones: the model "
            "folder is damaged or its dtype overflowed"
        )
