"""Responses that another engine drew: how far it is from the policy, and weights that make up.

mu is the engine's distribution, pi the policy's before the update, both at the sampling temperature
and over the same vocabulary. The engine tells log mu of what it drew; log pi comes from scoring, so
that nothing here costs a pass through a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dschat.algorithms.off_policy import kl_terms, log_ratios, rollout_weights
from dschat.errors import UserError
from dschat.rollout.experience import Experience
from dschat.runtime import distributed
from dschat.settings.online import OnlineConfig

MAX_KL = {torch.float32: 1e-5, torch.float16: 2e-4, torch.bfloat16: 6e-3}
"""Bounds of KL(mu || pi) in nats per token, by the dtype of the weights; docs/generation.md says
what they come from."""


@dataclass(frozen=True)
class RolloutCorrection:
    """Measures KL(mu || pi), bounds it, and weighs the advantages by pi / mu.

    Attributes:
        kind, cap, level: see `rollout_weights`.
        max_kl: above it, in nats per token on any rank, the run stops.
        advice: the rest of that error: where the bound comes from, and what to do.
    """

    kind: str = "none"
    cap: float = 2.0
    level: str = "token"
    max_kl: float = torch.inf
    advice: str = ""

    @classmethod
    def of(cls, config: OnlineConfig, dtype: torch.dtype) -> RolloutCorrection:
        """That of a run; the policy's own responses need none.

        Args:
            dtype: of the weights.
        """
        flag, bound = config.flag, config.rollout_max_kl
        source = f"{flag('rollout_max_kl')}"
        if bound is None:
            bound = MAX_KL[dtype]
            source = f"{flag('rollout_max_kl')}, by default, in {str(dtype).split('.')[1]}"
        return cls(
            config.rollout_correction or "none",
            config.rollout_correction_cap,
            config.rollout_correction_level,
            bound,
            f"({source}). It has other weights than the policy, or computes them in another way. "
            f"Use {flag('generation_backend')} native; or, if the difference is meant, raise "
            f"{flag('rollout_max_kl')}, and see rollout/kl_per_response for what the correction "
            "has to make up for.",
        )

    def __call__(
        self, experiences: Sequence[Experience]
    ) -> tuple[list[Experience], dict[str, float]]:
        """The experiences with weighted advantages, and metrics of the mismatch.

        All ranks call it with their micro-batches of one iteration, whose log-probabilities are
        finite (`find_fault`). Returns of a critic stay as they are.

        Raises:
            UserError: on all ranks: the engine is too far from the policy on one of them.
        """
        if experiences[0].rollout.behaviour_logprobs is None:
            return list(experiences), {}
        metrics, tokens = self._measured(experiences)
        if self.kind == "none":
            return list(experiences), metrics
        found, sums = [], torch.zeros(3, dtype=torch.float64, device=experiences[0].scores.device)
        for e in experiences:
            assert e.advantages is not None
            assert e.rollout.behaviour_logprobs is not None
            mask = e.rollout.response_mask
            weights, corrected = rollout_weights(
                e.logprobs, e.rollout.behaviour_logprobs, mask, self.kind, self.cap, self.level
            )
            found.append(replace(e, advantages=e.advantages * weights))
            used = weights[mask].double()
            sums += torch.stack([used.sum(), used.square().sum(), corrected[mask].double().sum()])
        total, squares, corrected_tokens = distributed.all_reduce(sums).tolist()
        metrics["rollout/corrected"] = corrected_tokens / tokens
        metrics["rollout/effective_share"] = total**2 / (tokens * squares) if squares else 0.0
        return found, metrics

    def _measured(self, experiences: Sequence[Experience]) -> tuple[dict[str, float], float]:
        """The mismatch over all ranks' tokens, and their number."""
        device = experiences[0].scores.device
        sums = torch.zeros(3, dtype=torch.float64, device=device)
        largest = torch.full((), -torch.inf, dtype=torch.float64, device=device)
        for e in experiences:
            mask = e.rollout.response_mask
            log_ratio = _log_ratio(e)[mask]
            responses = mask.any(dim=1).sum()
            sums += torch.stack([kl_terms(log_ratio).sum(), mask.sum(), responses])
            if len(log_ratio):
                largest = torch.maximum(largest, log_ratio.max())
        own_kl = sums[0] / sums[1].clamp(min=1)
        worst = distributed.all_reduce(torch.stack([largest, own_kl]), "max")
        kl, tokens, responses = distributed.all_reduce(sums).tolist()
        if worst[1] > self.max_kl:
            raise UserError(
                f"What samples the responses is not the policy: KL(mu || pi) is {worst[1]:.3g} "
                f"nats per token, expected at most {self.max_kl:g} {self.advice}"
            )
        found = {
            "rollout/kl": kl / max(tokens, 1.0),
            "rollout/kl_per_response": kl / max(responses, 1.0),
            "rollout/largest_ratio": float(worst[0].exp()),
        }
        return found, max(tokens, 1.0)


def _log_ratio(experience: Experience) -> Tensor:
    behaviour = experience.rollout.behaviour_logprobs
    assert behaviour is not None
    return log_ratios(experience.logprobs, behaviour, experience.rollout.response_mask)
