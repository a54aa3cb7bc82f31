"""KL, or another divergence, as a term of the policy's loss (`--kl_placement loss`).

See `dschat.regularization.sampled_kl` for what its gradient is, and what it leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dschat.algorithms import reduce_losses
from dschat.regularization.divergences import F_FUNCTIONS
from dschat.regularization.sampled_kl import sampled_divergence, top_k_divergence
from dschat.rollout.experience import Experience


@dataclass(frozen=True)
class DivergenceLoss:
    """coefficient * the mean estimate per token, on the scale of the policy's loss.

    The advantages' scaling (`--scale_rewards`) and baselines do not touch it, as in TRL: there the
    coefficient is relative to scaled rewards.

    Attributes:
        coefficient: `--kl_ctl`. term: "k2", "k3" or "top_k". divergence: of the last.
    """

    coefficient: float
    term: str
    divergence: str = "rkl"

    @classmethod
    def of(cls, config: Any) -> DivergenceLoss | None:
        """That of a run; None where its penalty is no term of the loss."""
        penalty = config.penalty
        if not getattr(penalty, "in_loss", False):
            return None
        return cls(config.kl_ctl, penalty.kl_term, penalty.loss_divergence)

    def __call__(
        self,
        logprobs: Tensor,
        candidate_logprobs: Tensor | None,
        experience: Experience,
        count: float,
        normalization: str,
    ) -> Tensor:
        """This micro-batch's share, a scalar.

        Args:
            logprobs: [B, T] of the responses' tokens, differentiable, 0 where masked.
            candidate_logprobs: [n, k] of the experience's candidates at its n active positions,
                differentiable.
            count, normalization: as of the policy's loss.
        """
        mask, reference = experience.rollout.response_mask, experience.reference_logprobs
        assert reference is not None
        if self.term != "top_k":
            losses = sampled_divergence(self.term, logprobs, reference)
        else:
            assert candidate_logprobs is not None
            assert experience.candidates is not None
            assert experience.candidate_logprobs is not None
            actions = experience.rollout.actions[mask]
            flat = top_k_divergence(
                F_FUNCTIONS[self.divergence](0.5),
                logprobs[mask],
                experience.logprobs[mask],
                reference[mask],
                candidate_logprobs,
                experience.candidate_logprobs[mask],
                (experience.candidates[mask] == actions.unsqueeze(1)).any(1),
            )
            losses = torch.zeros_like(logprobs).masked_scatter(mask, flat)
        return self.coefficient * reduce_losses(losses, mask, count, normalization)
