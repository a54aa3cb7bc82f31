"""KL between distributions whose mass is spread over near tokens: no solver is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dschat.regularization.base import (
    Penalty,
    PolicyRegularizer,
    checked_penalty,
    log_probabilities,
    mean,
    single_reference,
)
from dschat.regularization.ground.metric import GroundMetric
from dschat.regularization.ground.nearest_table import NearestTable, Progress
from dschat.regularization.semantic.token_smoothing import TokenSmoothing

NUMBERS_PER_BLOCK = {"cpu": 2**21, "cuda": 2**26}
"""Probabilities of a block of positions: on a CPU what stays in its cache, not the result."""
PLAIN_SHARE = 0.99
"""From this share of a token's mass that stays with it on, smoothing does next to nothing."""


class SmoothedKL(PolicyRegularizer):
    """KL(S^T pi || S^T rho), S spreading every token's mass over its nearest tokens.

    S_ab is the softmax of -c(a, b) / temperature over the tokens b nearest to a, a itself included;
    for ``cos`` costs that is the softmax of cosine similarities. With p = S^T pi, r = S^T rho:

        D = sum_b p_b log(p_b / r_b),    phi(a) = sum_b S_ab log(p_b / r_b).

    phi is the first variation of D, and its mean over pi is D without a shift (sum_a pi_a S_ab is
    p_b). By data processing D is at most KL(pi || rho), and it is KL where every token keeps its
    mass. Near the reference D is quadratic, and a token that the reference excludes costs as much
    as under KL, unless near tokens have mass there: moves among near tokens are cheap. D is 0 for
    equal distributions only, where S is invertible; of tokens with the same embedding it sees the
    sum. A kin of the similarity-sensitive divergences of Gallego-Posada et al. (arXiv 1906.08325).

    All of the vocabulary takes part. Products with the sparse S are in blocks of positions; the
    table of nearest tokens is made once for a model.

    Args:
        token_embeddings: [V', D], embeddings of the frozen reference model, V' >= V.
        neighbours: tokens that a token's mass is spread over, itself included; 1: plain KL.
        temperature: of the softmax: in units of the mean cost for ``L2``, else of 1 - cosine.
        cost_type: see `GroundMetric`.
        cost_components, cost_power, cost_saturation: likewise.
        cache_dir, writes, progress: see `NearestTable`.

    Raises:
        ValueError: on settings outside their range or unusable embeddings.
    """

    name = "smoothed_kl"

    def __init__(
        self,
        token_embeddings: Tensor,
        neighbours: int = 32,
        temperature: float = 0.1,
        cost_type: str = "cos",
        cost_components: int = 10,
        cost_power: float | None = None,
        cost_saturation: float | None = None,
        cache_dir: str | Path | None = None,
        writes: bool = True,
        progress: Progress | None = None,
    ) -> None:
        if neighbours < 1 or not temperature > 0:
            raise ValueError(
                f"given neighbours = {neighbours} and temperature = {temperature}, expected the "
                "first at least 1 and the second above 0"
            )
        self.temperature = temperature
        token_embeddings = token_embeddings.detach().float()  # as the table's costs are
        metric = GroundMetric(
            token_embeddings, cost_type, cost_components, cost_power, cost_saturation
        )
        self._used = metric.used
        self.unit = metric.mean if cost_type == "L2" else 1.0
        vocabulary, device = len(metric), token_embeddings.device
        self._neighbours = torch.empty(vocabulary, 0, dtype=torch.int32, device=device)
        self._scores = torch.empty(vocabulary, 0, device=device)
        if neighbours > 1:
            table = NearestTable(
                token_embeddings,
                neighbours - 1,
                metric,
                cache_dir=cache_dir,
                writes=writes,
                progress=progress,
            ).whole()
            self._neighbours = table.indices
            self._scores = table.costs / (-temperature * self.unit)
        self._smoothing: TokenSmoothing | None = None

    @torch.no_grad()
    def __call__(
        self, policy_logits: Tensor, reference_logits: Tensor | Sequence[Tensor], actions: Tensor
    ) -> Penalty:
        """Penalise N positions: logits [N, V] twice and sampled tokens [N] int64."""
        reference_logits = single_reference(policy_logits, reference_logits, actions)
        smoothing = self._over(policy_logits.shape[1])
        numbers = NUMBERS_PER_BLOCK.get(actions.device.type, NUMBERS_PER_BLOCK["cpu"])
        rows = max(1, numbers // policy_logits.shape[1])
        parts = [
            _penalties(smoothing, *block)
            for block in zip(
                policy_logits.split(rows),
                reference_logits.split(rows),
                actions.split(rows),
                strict=True,
            )
        ]
        token, divergence, kl = (torch.cat(column) for column in zip(*parts, strict=True))
        return checked_penalty(token, divergence, {"kl": mean(kl)})

    def diagnose(self) -> dict[str, float]:
        """How much of its mass a used token keeps (median), and how many get more than 1 %."""
        weights = self._over(len(self._scores)).weights(torch.float32)[self._used]
        return {
            "own_share": float(weights[:, 0].median()),
            "tokens_above_1_percent": mean((weights > 0.01).sum(1).float()),
        }

    def warning(self) -> str | None:
        """What to tell the user where smoothing changes next to nothing."""
        share = self.diagnose()["own_share"]
        if share < PLAIN_SHARE:
            return None
        return (
            f"half of the tokens keep {share:.2%} of their mass or more: the smoothed KL is in "
            "effect KL. Raise --smoothing_temperature (or --smoothing_neighbours above 1)."
        )

    def _over(self, vocabulary: int) -> TokenSmoothing:
        if vocabulary > len(self._scores):
            raise ValueError(
                f"given logits over {vocabulary} tokens and {len(self._scores)} token "
                "embeddings, expected an embedding for each: pass the reference model's own "
                "embeddings, and cut padded logits to their number"
            )
        if self._smoothing is None or self._smoothing.vocabulary != vocabulary:
            self._smoothing = TokenSmoothing(self._neighbours, self._scores, vocabulary)
        return self._smoothing


def _penalties(
    smoothing: TokenSmoothing, policy_logits: Tensor, reference_logits: Tensor, actions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Token penalty, divergence and the plain KL of a block of positions, [n] each."""
    # Tokens first: a product with S sums rows.
    log_pi = log_probabilities(policy_logits).T.contiguous()
    log_rho = log_probabilities(reference_logits).T.contiguous()
    kl = (log_pi.exp() * (log_pi - log_rho)).sum(0).clamp(min=0)
    log_p = smoothing.log_product(log_pi)
    log_ratio = log_p - smoothing.log_product(log_rho)
    divergence = log_p.exp_().mul_(log_ratio).sum(0)
    columns = torch.arange(len(actions), device=actions.device).unsqueeze(1)
    around = log_ratio[smoothing.tokens[actions], columns]
    token = (smoothing.weights(log_ratio.dtype)[actions] * around).sum(1)
    # Rounding may leave nearly equal distributions a hair below zero.
    return token, divergence.clamp(min=0), kl
