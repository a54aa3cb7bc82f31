"""The two updates of an iteration: clipped policy loss and clipped value loss.

A loss is a sum over this rank's tokens divided by the token count of the whole optimiser step, all
ranks and all accumulated micro-batches together, so that nothing depends on how the batch is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dschat.algorithms import ppo_diagnostics, ppo_policy_loss, value_loss
from dschat.rollout.experience import Experience
from dschat.training import distributed

POLICY_CLIP = 0.2
VALUE_CLIP = 0.2


def policy_logprobs(actor: Any, experience: Experience) -> Tensor:
    """[B, T] current log-probabilities of an experience's tokens, differentiable."""
    flat = actor(*experience.rollout.model_inputs())
    mask = experience.rollout.response_mask
    full = torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device)
    return full.masked_scatter(mask, flat)


def token_count(step: Sequence[Experience]) -> float:
    """Active tokens of one optimiser step over all ranks."""
    local = float(sum(int(e.rollout.response_mask.sum()) for e in step))
    device = step[0].rollout.response_mask.device
    return distributed.sum_over_ranks([local], device)[0]


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


def update(actor: Any, critic: Any, step: Sequence[Experience]) -> dict[str, float]:
    """One optimiser step of actor and critic over its accumulated micro-batches.

    Args:
        actor, critic: DeepSpeed engines whose accumulation is `len(step)`.
        step: the micro-batches of this rank.

    Returns:
        Metrics (the same on all ranks); empty if no rank has a token, and then nothing is done.
    """
    count = token_count(step)
    if count == 0:
        return {}
    # DeepSpeed averages over ranks and accumulated micro-batches; ours are shares of one sum.
    factor = distributed.world_size() * len(step)
    # Read before the step: after it the schedule shows the next one's.
    rates = {f"{n}_lr": float(e.get_lr()[0]) for n, e in (("actor", actor), ("critic", critic))}
    sums = torch.zeros(5, dtype=torch.float64, device=step[0].logprobs.device)
    for experience in step:
        mask = experience.rollout.response_mask
        assert experience.advantages is not None
        assert experience.returns is not None
        logprobs = policy_logprobs(actor, experience)
        policy = ppo_policy_loss(
            logprobs, experience.logprobs, experience.advantages, mask, POLICY_CLIP, count
        )
        actor.backward(policy * factor)
        actor_norm = optimizer_step(actor)
        values = critic(*experience.rollout.model_inputs())
        value = value_loss(values, experience.values, experience.returns, mask, VALUE_CLIP, count)
        critic.backward(value * factor)
        critic_norm = optimizer_step(critic)
        parts = ppo_diagnostics(logprobs, experience.logprobs, mask, POLICY_CLIP)
        sums += torch.stack(
            [
                policy.detach().double(),
                value.detach().double(),
                *(parts[name].double() / count for name in ("clip_fraction", "update_kl", "ratio")),
            ]
        )
    names = ("policy_loss", "value_loss", "clip_fraction", "update_kl", "ratio")
    metrics = dict(zip(names, distributed.all_reduce(sums).tolist(), strict=True))
    norms = {"actor_grad_norm": actor_norm, "critic_grad_norm": critic_norm}
    return {**metrics, **norms, **rates}
