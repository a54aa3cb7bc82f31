"""The updates of an iteration: optimizer steps of actor and critic over its experience."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dschat.checkpoint.ema import MovingAverage
from dschat.online.losses import (
    LossSettings,
    actor_loss,
    critic_loss,
    step_counts,
    without_truncated,
)
from dschat.online.pretraining_mix import PretrainingMix
from dschat.rollout.experience import Experience
from dschat.runtime import distributed
from dschat.runtime.faults import (
    BadStepError,
    BadSteps,
    Fault,
    GradientWatch,
    agree,
    discard_gradients,
)
from dschat.runtime.memory import give_back_freed_memory
from dschat.scoring.arrangement import group_numbers, like_lengths, regrouped, row_lengths
from dschat.scoring.faults import plain_rows
from dschat.settings.online import OnlineConfig


class Updater:
    """Takes the optimizer steps of an iteration.

    Args:
        config: the run's settings.
        actor, critic: DeepSpeed engines; no critic: None.
        pad_token_id: fills up rows.
        bad_steps: counts steps with a loss or gradient that is not finite, which are skipped.
        mix: text to be learnt as well, or None.
        average: of the actor's weights, or None; follows each step.
    """

    def __init__(
        self,
        config: OnlineConfig,
        actor: Any,
        critic: Any | None,
        pad_token_id: int,
        bad_steps: BadSteps,
        mix: PretrainingMix | None = None,
        average: MovingAverage | None = None,
    ) -> None:
        self.config, self.bad_steps, self.world = config, bad_steps, distributed.world_size()
        self.mix, self.average = mix, average
        self.loss = LossSettings.of(config, pad_token_id)
        engines = {"actor": actor} | ({} if critic is None else {"critic": critic})
        self.watches = {
            name: GradientWatch(engine.module, engine.device) for name, engine in engines.items()
        }

    def update(
        self, actor: Any, critic: Any | None, experiences: Sequence[Experience], iteration: int
    ) -> dict[str, float]:
        """`ppo_epochs` passes of updates over an iteration's experience.

        Args:
            experiences: this rank's micro-batches, with advantages.
            iteration: number of the iteration in the run, from 0.

        Returns:
            The mean of the steps' metrics, the same on all ranks; empty where no step was taken.
        """
        for engine in (actor, critic):
            if engine is not None:
                engine.train()
        text_loss = None
        if self.mix is not None:
            size = self.config.gradient_accumulation_steps
            text_loss = partial(self.mix.loss, actor, iteration, size)
        collected: list[dict[str, float]] = []
        if self.config.mask_truncated:
            experiences = [without_truncated(e) for e in experiences]
        for step in self.steps(experiences, iteration):
            try:
                metrics = update(actor, critic, step, self.loss, text_loss, self.watches)
            except BadStepError as error:
                self.bad_steps.bad(error, iteration + 1, plain_rows(step))
                continue
            if metrics:
                collected.append(metrics)
                if actor.was_step_applied():  # not so after an overflow in fp16
                    self.bad_steps.good()
                    if self.average is not None:
                        self.average.update()
        names = collected[0] if collected else {}
        return {name: sum(m[name] for m in collected) / len(collected) for name in names}

    def steps(
        self, experiences: Sequence[Experience], iteration: int
    ) -> Iterator[list[Experience]]:
        """The micro-batches of one optimizer step after the other, `ppo_epochs` times over.

        Later passes put other micro-batches into a step, as they were dealt and not as they were
        arranged by length, so that the step is the same whatever the number of ranks; its rows are
        then arranged anew.
        """
        config = self.config
        order = random.Random(config.seed * 1_000_003 + iteration)
        numbers, size = list(range(len(experiences))), config.gradient_accumulation_steps
        rollouts = [e.rollout for e in experiences]
        micro_batch = config.per_device_training_batch_size
        dealt = group_numbers(rollouts, micro_batch * self.world)  # of each row
        lengths, groups = row_lengths(rollouts), group_numbers(rollouts, config.group_size())
        for epoch in range(config.ppo_epochs):
            if epoch > 0:
                order.shuffle(numbers)
            for i in range(0, len(numbers), size):
                chosen = numbers[i : i + size]
                if epoch == 0 or size in (1, len(numbers)):
                    yield [experiences[number] for number in chosen]
                    continue
                rows = [row for row, number in enumerate(dealt) if number in chosen]
                batches = like_lengths(lengths, groups, rows, micro_batch)
                yield regrouped(experiences, batches, self.loss.pad_token_id)


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
    """One optimizer step of actor and critic over its accumulated micro-batches.

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
    count, tokens = step_counts(step, settings.normalization, settings.constant)
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
        parts = actor_loss(actor, experience, settings, count, tokens)
        actor.backward(parts.pop("loss") * actor_factor)
        if text_loss is not None:
            actor.step()  # within an accumulation: only counts
            parts["unsupervised_loss"] = text_loss(experience)
            scaled = parts["unsupervised_loss"] * settings.text_coefficient
            actor.backward(scaled * actor_factor)
        if critic is not None:
            give_back_freed_memory()  # of the actor's pass: the critic's has blocks of other sizes
            parts["value_loss"] = critic_loss(critic, experience, tokens, settings.value_clip)
            critic.backward(parts["value_loss"] * factor)
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + value.detach().double()
        if i + 1 < len(step):
            for engine in engines.values():
                engine.step()
    # Both engines' gradients are known before either takes its step.
    skip = watches is not None and must_skip(engines, watches, sums, step, settings.align_overflow)
    if skip:
        for engine in engines.values():
            discard_gradients(engine)
        norms = {f"{name}_grad_norm": math.inf for name in engines}
    else:
        norms = {f"{name}_grad_norm": optimizer_step(engine) for name, engine in engines.items()}
    total = distributed.all_reduce(torch.stack(list(sums.values()))).tolist()
    return {**dict(zip(sums, total, strict=True)), **norms, **rates}


def must_skip(
    engines: Mapping[str, Any],
    watches: Mapping[str, GradientWatch],
    losses: Mapping[str, Tensor],
    step: Sequence[Experience],
    align_overflow: bool,
) -> bool:
    """Whether all engines skip this step because one of them has overflowed in fp16.

    Without `align_overflow` DeepSpeed skips the step of the engine that overflowed, and the
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
