"""The updates of an iteration: clipped policy loss, and clipped value loss where there is a critic.

A loss is a sum over this rank's tokens divided by the token count (or the response count) of the
whole optimiser step, all ranks and all accumulated micro-batches together, so that nothing depends
on how the batch is cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dschat.algorithms import (
    loss_count,
    masked_sum,
    ppo_diagnostics,
    ppo_policy_loss,
    reduce_losses,
    value_loss,
)
from dschat.online.policy_terms import policy_terms
from dschat.rollout.experience import Experience
from dschat.runtime import distributed
from dschat.runtime.faults import (
    BadStepError,
    Fault,
    GradientWatch,
    agree,
    discard_gradients,
)
from dschat.runtime.memory import give_back_freed_memory

VALUE_CLIP = 0.2


@dataclass(frozen=True)
class LossSettings:
    """How the policy's loss is made.

    Attributes:
        clip, clip_high: half-widths of the interval around ratio 1; None: the same above as below.
        normalization: "token" or "sequence", see `dschat.algorithms.reduce_losses`.
        pad_token_id: fills up rows.
        text_coefficient: of the loss on plain text, where there is one.
        align_overflow: where actor or critic overflows in fp16, both leave out the step.
        entropy_coefficient: of the mean entropy per token, which the loss is lowered by.
    """

    clip: float = 0.2
    clip_high: float | None = None
    normalization: str = "token"
    pad_token_id: int = 0
    text_coefficient: float = 0.0
    align_overflow: bool = False
    entropy_coefficient: float = 0.0


def step_counts(step: Sequence[Experience], normalization: str) -> tuple[float, float]:
    """(what losses are divided by, active tokens) of one optimiser step over all ranks."""
    masks = [e.rollout.response_mask for e in step]
    local = [float(sum(int(loss_count(m, n)) for m in masks)) for n in (normalization, "token")]
    count, tokens = distributed.sum_over_ranks(local, masks[0].device)
    return count, tokens


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


def optimizer_step(engine: Any) -> float:
    """`engine.step()`, and the gradient's norm before clipping (0 within an accumulation)."""
    if not engine.is_gradient_accumulation_boundary():
        engine.step()
        return 0.0
    norm: Any = None
    if engine.zero_optimization_stage() == 0:  # fp32 without ZeRO: DeepSpeed keeps no norm
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
    engine.step()
    return float(engine.get_global_grad_norm() if norm is None else norm)


def update(
    actor: Any,
    critic: Any,
    step: Sequence[Experience],
    settings: LossSettings,
    text_loss: Callable[[Experience], Tensor] | None = None,
    watches: Mapping[str, GradientWatch] | None = None,
) -> dict[str, float]:
    """One optimiser step of actor and critic over its accumulated micro-batches.

    Args:
        actor, critic: DeepSpeed engines whose accumulation is `len(step)`; no critic: None.
        step: the micro-batches of this rank.
        text_loss: of the text that goes with a micro-batch, its share of the step's mean; with it
            the actor's accumulation is twice `len(step)`, and memory holds one pass at a time.

        watches: of the engines' gradients, by name; None: they are not looked at.

    Returns:
        Metrics (the same on all ranks); empty if no rank has a token, and then nothing is done.

    Raises:
        BadStepError: on all ranks: a loss or a gradient is not finite. No step was taken.
    """
    count, tokens = step_counts(step, settings.normalization)
    if tokens == 0:
        return {}
    # DeepSpeed averages over ranks and accumulated micro-batches; ours are shares of one sum.
    factor = distributed.world_size() * len(step)
    actor_factor = factor * (1 if text_loss is None else 2)
    engines = {"actor": actor} | ({} if critic is None else {"critic": critic})
    # Read before the step: after it the schedule shows the next one's.
    rates = {f"{name}_lr": float(engine.get_lr()[0]) for name, engine in engines.items()}
    sums: dict[str, Tensor] = {}
    for i, experience in enumerate(step):
        parts = _actor_loss(actor, experience, settings, count, tokens)
        actor.backward(parts.pop("loss") * actor_factor)
        if text_loss is not None:
            actor.step()  # within an accumulation: only counts
            parts["unsupervised_loss"] = text_loss(experience)
            scaled = parts["unsupervised_loss"] * settings.text_coefficient
            actor.backward(scaled * actor_factor)
        if critic is not None:
            give_back_freed_memory()  # of the actor's pass: the critic's has blocks of other sizes
            parts["value_loss"] = _critic_loss(critic, experience, tokens)
            critic.backward(parts["value_loss"] * factor)
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + value.detach().double()
        if i + 1 < len(step):
            for engine in engines.values():
                engine.step()
    # Both engines' gradients are known before either takes its step.
    leave_out = watches is not None and must_leave_out(
        engines, watches, sums, step, settings.align_overflow
    )
    if leave_out:
        for engine in engines.values():
            discard_gradients(engine)
        norms = {f"{name}_grad_norm": math.inf for name in engines}
    else:
        norms = {f"{name}_grad_norm": optimizer_step(engine) for name, engine in engines.items()}
    total = distributed.all_reduce(torch.stack(list(sums.values()))).tolist()
    return {**dict(zip(sums, total, strict=True)), **norms, **rates}


def must_leave_out(
    engines: Mapping[str, Any],
    watches: Mapping[str, GradientWatch],
    losses: Mapping[str, Tensor],
    step: Sequence[Experience],
    align_overflow: bool,
) -> bool:
    """Whether all engines leave out this step because one of them has overflowed in fp16.

    Without `align_overflow` DeepSpeed leaves out the step of the engine that overflowed, and the
    other one takes its own.

    Raises:
        BadStepError: on all ranks: a loss or, without a loss scale, a gradient is not finite. The
            gradients are gone and no step was taken.
    """
    rank, prompts = distributed.rank(), tuple(p for e in step for p in e.rollout.prompts)
    fault, overflow = None, False
    for name, value in losses.items():
        if name.endswith("_loss") and not value.isfinite():
            fault = fault or Fault(f"the {name.replace('_', ' ')} is not finite", rank, prompts)
    for name, engine in engines.items():
        if watches[name].take():
            continue
        if engine.fp16_enabled():
            overflow = True
        else:
            words = f"the gradient of the {name} is not finite"
            fault = fault or Fault(words, rank, prompts, order=1)
    try:
        agree(fault, step[0].scores.device)
    except BadStepError:
        for engine in engines.values():
            discard_gradients(engine)
        raise
    if not align_overflow:
        return False
    flag = torch.tensor([int(overflow)], device=step[0].scores.device)
    return bool(distributed.all_reduce(flag, "max"))


def _actor_loss(
    actor: Any, experience: Experience, settings: LossSettings, count: float, tokens: float
) -> dict[str, Tensor]:
    """`loss` to be minimised, and this micro-batch's shares of the reported numbers."""
    assert experience.advantages is not None
    mask, clips = experience.rollout.response_mask, (settings.clip, settings.clip_high)
    with_entropy = settings.entropy_coefficient > 0
    terms = policy_terms(actor, experience, settings.pad_token_id, with_entropy)
    policy = ppo_policy_loss(
        terms.logprobs,
        experience.logprobs,
        experience.advantages,
        mask,
        settings.clip,
        count,
        settings.clip_high,
        settings.normalization,
    )
    parts = {"loss": policy, "policy_loss": policy}
    for name, value in ppo_diagnostics(terms.logprobs, experience.logprobs, mask, *clips).items():
        parts[name] = value / tokens
    if experience.sample_weights is not None:
        # Where a micro-batch has no sample, the others' shares still need a place to go.
        parts["reference_sample_loss"] = policy.new_zeros(())
    if terms.of_samples is not None:
        extra = sample_loss(terms.of_samples, experience, count, settings.normalization)
        parts["loss"] = policy + extra
        parts["reference_sample_loss"] = extra
    if terms.entropy is not None:
        # A mean over tokens, whatever the policy's loss is normalised by.
        bonus = settings.entropy_coefficient * masked_sum(terms.entropy, mask) / tokens
        parts["loss"] = parts["loss"] - bonus
        parts["entropy_loss"] = -bonus
    return parts


def _critic_loss(critic: Any, experience: Experience, tokens: float) -> Tensor:
    assert experience.values is not None
    assert experience.returns is not None
    rollout = experience.rollout
    values = critic(*rollout.model_inputs())
    mask = rollout.response_mask
    return value_loss(values, experience.values, experience.returns, mask, VALUE_CLIP, tokens)
