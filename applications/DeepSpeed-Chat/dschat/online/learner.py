"""One iteration of online training: sample, score, compute advantages, update.

1. sample responses to the prompts of one or more generation batches, a group to each prompt;
2. score them: log-probabilities, penalty, rewards, values (`dschat.online.experience_maker`);
3. turn rewards and penalties into advantages: by a critic (`dschat.scoring.targets`), or by
   comparison within a group (`dschat.scoring.group_targets`);
4. update the actor, and the critic if there is one, `ppo_epochs` times over the micro-batches.

Where it departs from DeepSpeed-Chat: an optimiser step never accumulates over responses of two
different policies; losses are divided by the token count of the whole step over all ranks; a
response without a token is masked instead of being replaced by the previous batch.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

import torch
from torch.profiler import record_function

from dschat.checkpoint.ema import MovingAverage
from dschat.data.prompts import PromptExample
from dschat.online.experience_maker import ExperienceMaker
from dschat.online.faults import find_fault, plain_rows
from dschat.online.iteration_metrics import iteration_metrics
from dschat.online.pretraining_mix import PretrainingMix
from dschat.online.updates import LossSettings, update
from dschat.rollout.experience import Experience, Rollout
from dschat.runtime.distributed import on_all_ranks
from dschat.runtime.faults import BadStepError, BadSteps, GradientWatch, agree
from dschat.runtime.interruption import StopRequest, StopRequestedError
from dschat.scoring.arrangement import (
    by_length,
    group_numbers,
    like_lengths,
    regrouped,
    row_lengths,
)
from dschat.scoring.group_targets import floored_groups, with_group_targets
from dschat.scoring.sample_term import with_samples
from dschat.scoring.targets import MacroActions, Segment, with_targets


@dataclass
class OnlineLearner(ExperienceMaker):
    """An iteration of PPO, GRPO or RLOO with any regulariser and any reward.

    Attributes:
        sample_coefficient: of the forward KL that the prompts' `samples` estimate; 0: there are
            none.
        mix: text to be learnt as well, or None.
        segment: macro actions by parsing, see `MacroActions`.
    """

    sample_coefficient: float = 0.0
    mix: PretrainingMix | None = None
    segment: Segment | None = None
    stop: StopRequest = field(default_factory=StopRequest, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        config = self.config
        self.rounds = config.generation_rounds()
        self.group_size = config.group_size()
        self.responses = config.per_device_generation_batch_size * self.world * self.rounds
        self.loss = LossSettings(
            config.clip_range,
            config.clip_range_high,
            config.loss_normalization,
            self.tokenizer.pad_token_id,
            config.unsup_coef,
            config.align_overflow,
            config.entropy_coef,
        )
        assert config.output_dir is not None
        self.bad_steps = BadSteps(config.output_dir, config.max_bad_steps)
        engines = {"actor": self.actor} | ({"critic": self.critic} if self.critic else {})
        self.watches = {
            name: GradientWatch(engine.module, self.device) for name, engine in engines.items()
        }
        self.average: MovingAverage | None = None
        if config.enable_ema:
            resting = torch.device("cpu") if config.offload else None
            self.average = MovingAverage(self.actor.module.model, device=resting)

    def run_iteration(self, prompts: list[PromptExample]) -> dict[str, float]:
        """Sample, score and learn from a group of responses to each of the prompts.

        Args:
            prompts: ranks x generation batch size x rounds / group size of them, the same on all
                ranks.

        Returns:
            Metrics, the same on all ranks.

        Raises:
            StopRequestedError: a rank was asked to stop before the updates began; nothing is
                changed but `generation_step` and the random numbers.
        """
        started = time.perf_counter()
        seconds = {"generate": 0.0, "score": 0.0, "penalty": 0.0}
        experiences: list[Experience] = []
        try:
            metric_sums = self._collect(prompts, experiences, seconds)
            self._leave_if_asked()
            at = time.perf_counter()
            update_metrics = self.learn(experiences)
        except BadStepError as error:
            # A fault before the updates: the whole iteration is left out.
            self.iteration += 1
            self.bad_steps.bad(error, self.iteration, plain_rows(experiences or self.rollouts))
            return self._left_out(time.perf_counter() - started)
        seconds["update"] = time.perf_counter() - at
        self.iteration += 1
        metrics = iteration_metrics(
            experiences, metric_sums, self.config.penalty_coefficient, self.device, self.group_size
        )
        seconds["total"] = time.perf_counter() - started
        tokens = metrics["response_tokens"]
        return {
            "step": self.generation_step,
            "iteration": self.iteration,
            **metrics,
            **self._group_metrics(experiences),
            **self.backend.metrics,
            **update_metrics,
            "skipped": float(not update_metrics),
            "bad_steps": float(self.bad_steps.total),
            **{f"time/{name}_s": value for name, value in seconds.items()},
            "time/tokens_per_s": tokens / seconds["total"],
        }

    def _group_metrics(self, experiences: list[Experience]) -> dict[str, float]:
        """`std_floored`: of how many groups `--scale_rewards` did not divide by their own std."""
        config = self.config
        if not config.scale_rewards:
            return {}
        bounds = self.responses, self.group_size, config.clip_reward_value
        return {"std_floored": floored_groups(experiences, *bounds)}

    def _left_out(self, seconds: float) -> dict[str, float]:
        """The metrics of an iteration that was left out."""
        return {
            "step": self.generation_step,
            "iteration": self.iteration,
            "skipped": 1.0,
            "bad_steps": float(self.bad_steps.total),
            "time/total_s": seconds,
        }

    def _collect(
        self,
        prompts: list[PromptExample],
        experiences: list[Experience],
        seconds: dict[str, float],
    ) -> dict[str, float]:
        """Sample and score an iteration's responses.

        Args:
            experiences, seconds: added to, so that they are known where a fault ends this early.

        Returns:
            Sums of the metrics of penalty and reward.
        """
        config = self.config
        repeated = [prompt for prompt in prompts for _ in range(self.group_size)]
        size = len(repeated) // self.rounds
        metric_sums: dict[str, float] = {}
        for start in range(0, len(repeated), size):
            self._leave_if_asked()
            at = time.perf_counter()
            batch = repeated[start : start + size]
            rollouts = self._by_length(self.sample(batch, start), start)
            seconds["generate"] += time.perf_counter() - at
            at = time.perf_counter()
            scored, sums = self.score(rollouts)
            for name, value in sums.items():
                metric_sums[name] = metric_sums.get(name, 0.0) + value
            seconds["score"] += time.perf_counter() - at
            seconds["penalty"] += self.scorer.seconds
            if self.sample_coefficient:
                scored = with_samples(
                    scored, repeated, self.sample_coefficient, config, self.tokenizer, self.device
                )
            experiences += scored
        return metric_sums

    def _by_length(self, rollouts: list[Rollout], start: int) -> list[Rollout]:
        """A generation batch with rows of like length together, within each optimiser step."""
        first = start // (self.world * self.config.per_device_training_batch_size)
        size, pad = self.config.gradient_accumulation_steps, self.tokenizer.pad_token_id
        found: list[Rollout] = []
        for _, step in groupby(enumerate(rollouts, first), lambda numbered: numbered[0] // size):
            found += by_length([rollout for _, rollout in step], self.group_size, pad)
        return found

    def _leave_if_asked(self) -> None:
        if self.stop.on_any_rank(self.device):
            raise StopRequestedError

    def _targets(self, experiences: list[Experience]) -> list[Experience]:
        config = self.config
        clip = self.regularizer.reward_clip
        if self.critic is None:
            return with_group_targets(
                experiences,
                self.responses,
                self.group_size,
                config.penalty_coefficient,
                clip,
                config.clip_reward_value,
                leave_one_out=config.algorithm == "rloo",
                scale=config.scale_rewards,
            )
        macro = MacroActions(
            config.termination_condition,
            config.ngram,
            config.repeat_times,
            config.value_function,
            config.seed * 1_000_003 + self.iteration,
            self.segment,
        )
        discounts = (config.gamma, config.lam)
        found: list[Experience] = []
        with on_all_ranks():  # a parser may fail
            for e in experiences:
                bounds = clip, *discounts, config.clip_reward_value
                found.append(with_targets(e, config.penalty_coefficient, *bounds, macro))
        return found

    @record_function("update")
    def learn(self, experiences: list[Experience]) -> dict[str, float]:
        """Advantages, then `ppo_epochs` passes of updates; the mean of the updates' metrics."""
        config = self.config
        experiences[:] = self._targets(experiences)
        agree(find_fault(experiences, self.reward.name), self.device)
        self.actor.train()
        if self.critic is not None:
            self.critic.train()
        size = config.gradient_accumulation_steps
        text_loss = None
        if self.mix is not None:
            text_loss = partial(self.mix.loss, self.actor, self.iteration, size)
        collected: list[dict[str, float]] = []
        for step in self._steps(experiences):
            try:
                metrics = update(self.actor, self.critic, step, self.loss, text_loss, self.watches)
            except BadStepError as error:
                self.bad_steps.bad(error, self.iteration + 1, plain_rows(step))
                continue
            if metrics:
                collected.append(metrics)
                if self.actor.was_step_applied():  # not so after an overflow in fp16
                    self.bad_steps.good()
                    if self.average is not None:
                        self.average.update()
        names = collected[0] if collected else {}
        return {name: sum(m[name] for m in collected) / len(collected) for name in names}

    def _steps(self, experiences: list[Experience]) -> Iterator[list[Experience]]:
        """The micro-batches of one optimiser step after the other, `ppo_epochs` times over.

        Later passes put other micro-batches into a step, as they were dealt and not as they were
        arranged by length, so that the step is the same whatever the number of ranks; its rows are
        then arranged anew.
        """
        config = self.config
        order = random.Random(config.seed * 1_000_003 + self.iteration)
        numbers, size = list(range(len(experiences))), config.gradient_accumulation_steps
        rollouts = [e.rollout for e in experiences]
        micro_batch = config.per_device_training_batch_size
        dealt = group_numbers(rollouts, micro_batch * self.world)  # of each row
        lengths, groups = row_lengths(rollouts), group_numbers(rollouts, self.group_size)
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
                yield regrouped(experiences, batches, self.tokenizer.pad_token_id)
