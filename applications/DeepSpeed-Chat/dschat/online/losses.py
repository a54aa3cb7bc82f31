"""The losses of one micro-batch: policy, references' samples, entropy, and the critic's.

A loss is a sum over this rank's tokens divided by the token count (or the response count) of the
whole optimizer step, all ranks and all accumulated micro-batches together, so that nothing depends
on how the batch is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dschat.algorithms import loss_count, masked_sum, reduce_losses, value_loss
from dschat.online.kl_loss import DivergenceLoss
from dschat.rollout.experience import Experience
from dschat.rollout.reference_samples import joined
from dschat.runtime import distributed
from dschat.settings.online import OnlineConfig
from dschat.settings.parts import POLICY_LOSSES

PolicyLoss = Callable[
    [Tensor, Tensor, Tensor, Tensor, float],
    tuple[Tensor, dict[str, Tensor]],
]
"""(logprobs, old_logprobs, advantages, mask [B, T], count) -> loss, sums over tokens to log."""


@dataclass(frozen=True)
class LossSettings:
    """How the actor's loss is made.

    Attributes:
        policy_loss: an entry of `POLICY_LOSSES` with its settings.
        normalization: see `dschat.algorithms.reduce_losses`.
        pad_token_id: fills up rows.
        constant: what responses are multiplied by with the normalization "constant".
        value_clip: half-width of the interval around the critic's values at sampling.
        text_coefficient: of the loss on plain text, where there is one.
        entropy_coefficient: of the mean entropy per token, which the loss is lowered by.
        divergence: a divergence as a term of the loss, or None.
        align_overflow: where actor or critic overflows in fp16, both skip the step.
    """

    policy_loss: PolicyLoss
    normalization: str = "token"
    pad_token_id: int = 0
    text_coefficient: float = 0.0
    entropy_coefficient: float = 0.0
    align_overflow: bool = False
    divergence: DivergenceLoss | None = None
    constant: int = 1
    value_clip: float = 0.2

    @classmethod
    def of(cls, config: OnlineConfig, pad_token_id: int) -> LossSettings:
        """Those of a run."""
        return cls(
            partial(POLICY_LOSSES[config.policy_loss].load(), settings=config),
            config.loss_normalization or "token",
            pad_token_id,
            config.unsup_coef,
            config.entropy_coef,
            config.align_overflow,
            DivergenceLoss.of(config),
            config.loss_constant or 1,
            config.clip_range_value,
        )


def step_counts(
    step: Sequence[Experience], normalization: str, constant: int = 1
) -> tuple[float, float]:
    """(what losses are divided by, active tokens) of one optimizer step over all ranks."""
    masks = [e.rollout.response_mask for e in step]
    kinds = (normalization, constant), ("token", 1)
    local = [float(sum(int(loss_count(m, *kind)) for m in masks)) for kind in kinds]
    count, tokens = distributed.sum_over_ranks(local, masks[0].device)
    return count, tokens


def without_truncated(experience: Experience) -> Experience:
    """The same with responses that did not end by themselves masked: no loss sees their tokens."""
    rollout = experience.rollout
    mask = rollout.response_mask & rollout.ended.unsqueeze(1)
    return replace(experience, rollout=replace(rollout, response_mask=mask))


class PolicyTerms(NamedTuple):
    """Differentiable, 0 where masked.

    Attributes:
        logprobs: [B, T] of the responses' tokens.
        of_samples: [rows, T'] those of the references' samples, where the experience has some.
        entropy: [B, T] in nats of the distributions that the responses' tokens come from, if
            wanted.
        of_candidates: [n, k] of the experience's candidates at the n active positions, if it has
            some.
    """

    logprobs: Tensor
    of_samples: Tensor | None = None
    entropy: Tensor | None = None
    of_candidates: Tensor | None = None


def policy_terms(
    actor: Any, experience: Experience, pad_token_id: int, entropy: bool = False
) -> PolicyTerms:
    """One pass through the actor.

    The references' samples go through it together with the responses, so that all ranks make the
    same number of passes.
    """
    rollout, samples = experience.rollout, experience.samples
    mask = rollout.response_mask
    if samples is None:
        inputs = rollout.model_inputs()
    else:
        inputs = joined(rollout, samples, pad_token_id)
    own = int(mask.sum()) if samples is not None else None
    options: dict[str, Any] = {"entropy": True} if entropy else {}
    candidates = experience.candidates
    if candidates is not None:
        assert samples is None  # both are penalties, and a run has one
        options["candidates"] = candidates[mask]
    found = actor(*inputs, **options)
    flat: tuple[Tensor, ...] = found if options else (found,)
    return PolicyTerms(
        _spread(flat[0][:own], mask),
        None if samples is None else _spread(flat[0][own:], samples.response_mask),
        _spread(flat[1][:own], mask) if entropy else None,
        None if candidates is None else flat[-1],
    )


def _spread(flat: Tensor, mask: Tensor) -> Tensor:
    full = torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device)
    return full.masked_scatter(mask, flat)


def sample_loss(
    logprobs: Tensor, experience: Experience, count: float, normalization: str
) -> Tensor:
    """Weighted -log pi of the references' samples, on the scale of the policy's loss.

    The policy's loss is a sum over B responses divided by `count`. The weights (see
    `dschat.scoring.sample_term`) make this the sum of coefficient * -log pi(y) over as many
    samples: with the normalisation "token" the coefficient is that of the forward KL, whatever the
    count is. With "sequence" a sample's -log pi(y) is divided by its length, as a response's loss.
    """
    assert experience.samples is not None
    assert experience.sample_weights is not None
    weighted = -logprobs * experience.sample_weights.unsqueeze(1)
    return reduce_losses(weighted, experience.samples.response_mask, count, normalization)


def actor_loss(
    actor: Any, experience: Experience, settings: LossSettings, count: float, tokens: float
) -> dict[str, Tensor]:
    """`loss` to be minimised, and this micro-batch's shares of the reported numbers."""
    assert experience.advantages is not None
    mask = experience.rollout.response_mask
    with_entropy = settings.entropy_coefficient > 0
    terms = policy_terms(actor, experience, settings.pad_token_id, with_entropy)
    policy, sums = settings.policy_loss(
        terms.logprobs, experience.logprobs, experience.advantages, mask, count
    )
    parts = {"loss": policy, "policy_loss": policy}
    parts |= {name: value / tokens for name, value in sums.items()}
    if experience.sample_weights is not None:
        # A micro-batch without a sample still has a share, of 0: all ranks report the same names.
        parts["reference_sample_loss"] = policy.new_zeros(())
    if terms.of_samples is not None:
        extra = sample_loss(terms.of_samples, experience, count, settings.normalization)
        parts["loss"] = policy + extra
        parts["reference_sample_loss"] = extra
    if settings.divergence is not None:
        extra = settings.divergence(
            terms.logprobs, terms.of_candidates, experience, count, settings.normalization
        )
        parts["loss"] = parts["loss"] + extra
        parts["kl_loss"] = extra
    if terms.entropy is not None:
        # A mean over tokens, whatever the policy's loss is normalised by.
        bonus = settings.entropy_coefficient * masked_sum(terms.entropy, mask) / tokens
        parts["loss"] = parts["loss"] - bonus
        parts["entropy_loss"] = -bonus
    return parts


def critic_loss(
    critic: Any, experience: Experience, tokens: float, value_clip: float = 0.2
) -> Tensor:
    """This micro-batch's share of the value loss."""
    assert experience.values is not None
    assert experience.returns is not None
    rollout = experience.rollout
    values = critic(*rollout.model_inputs())
    mask = rollout.response_mask
    return value_loss(values, experience.values, experience.returns, mask, value_clip, tokens)
