"""Online training: PPO, GRPO or RLOO with any penalty, any reward and any advantage.

An iteration is steps 1 to 5, in `OnlineTrainer.run_iteration`:

    rollouts   = sampler.sample(actor, prompts)                # 1  dschat.rollout.sampler
    scored     = scorer.score(actor, critic, rollouts)         # 2  dschat.scoring.scorer
    rewards    = reward_rollouts(reward, rollouts)             # 3  dschat.rewards
    experience = targets(to_experiences(scored, rewards))      # 4  dschat.scoring.targets
    metrics    = updater.update(actor, critic, experience)     # 5  dschat.online.updates
    log, evaluate, save                                        # 6

Departures from DeepSpeed-Chat (main.py and ppo_trainer.py of its step 3), by step:

- 1: A response has random numbers of its own, whatever the number of ranks. It is drawn from the
  full softmax at `--temperature` and ends at any of the model's end tokens.
- 1: An iteration samples as many generation batches as its optimizer steps accumulate over: no step
  mixes responses of two policies.
- 1: A response without a token of its own is masked; there, the previous batch is used again.
- 2: The penalty is any regularizer, near one or several references, and stops at the response's
  end; there, it is an estimate of KL and counts one position more. Logits are made in chunks.
- 4: The advantage is any function of the iteration's responses on all ranks. Macro actions have
  boundaries of their own in each response.
- 4: Where another engine samples (vLLM), advantages are weighted by the ratio of both policies.
- 5: Losses are divided by the tokens of the whole optimizer step, all ranks and micro-batches
  together. Micro-batches hold rows of like length; later epochs put others into a step.
- 5: The text loss is added to the policy's, not averaged with it. The moving average follows
  optimizer steps, not micro-batches.
- 5: A step with NaN or infinity is skipped on all ranks, and what led to it is saved.
- 5: The reference may follow the policy (`--reference_schedule`).
- 6: Steps are counted in generation batches; a checkpoint resumes bit for bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from dschat.data.prompts import PromptExample, prompt_batches
from dschat.online.checkpoints import Checkpointer
from dschat.online.dynamic_sampling import Drawn, draw_groups_with_spread
from dschat.online.metrics import Clock, Report, iteration_metrics
from dschat.online.references.schedule import ReferenceSchedule
from dschat.online.updates import Updater
from dschat.rewards import RewardFunction
from dschat.rollout.backends.base import GenerationBackend
from dschat.rollout.experience import Experience, Rollout
from dschat.rollout.sampler import RolloutSampler
from dschat.runtime import distributed
from dschat.runtime.faults import BadStepError, BadSteps, agree
from dschat.runtime.interruption import StopRequest, StopRequestedError, how_to_resume
from dschat.runtime.profiling import StepProfiler
from dschat.runtime.random_states import random_states, set_random_states
from dschat.scoring.arrangement import steps_by_length
from dschat.scoring.faults import find_fault, plain_rows
from dschat.scoring.rollout_correction import RolloutCorrection
from dschat.scoring.sample_term import SampleTerm
from dschat.scoring.scorer import Scorer, reward_rollouts, to_experiences
from dschat.scoring.targets import Targets
from dschat.settings.online import OnlineConfig


@dataclass(kw_only=True)
class OnlineTrainer:
    """An online run, put together from parts that know nothing of each other.

    Attributes:
        config: the run's settings.
        prompts: to learn from, the same list on all ranks.
        tokenizer: of all models. device: this rank's.
        actor: DeepSpeed engine around a `PolicyModel`. critic: around a `ValueModel`, or None.
        backend: samples from the actor's engine, for `sampler`.
        sampler, scorer, reward, targets, updater, checkpointer: the steps, see the module.
        correction: of responses that another engine drew.
        sample_term: adds the references' samples that the forward KL is learnt from, or None.
        schedule: moves the reference after iterations, or None.
        bad_steps: counts skipped steps.
        report: logs and shows metrics.
        evaluate: called with the trainer, before, every `evaluate_every` iterations, and after.
        iteration: iterations done.
        batches: batches of an iteration's prompts sampled; more than that under dynamic sampling.
    """

    config: OnlineConfig
    prompts: Sequence[PromptExample]
    tokenizer: Any
    device: torch.device
    actor: Any
    critic: Any | None
    backend: GenerationBackend
    sampler: RolloutSampler
    scorer: Scorer
    reward: RewardFunction
    targets: Targets
    correction: RolloutCorrection
    updater: Updater
    checkpointer: Checkpointer
    bad_steps: BadSteps
    report: Report
    sample_term: SampleTerm | None = None
    schedule: ReferenceSchedule | None = None
    evaluate: Callable[[OnlineTrainer], dict[str, float]] | None = None
    evaluate_every: int = 0
    iteration: int = field(default=0, init=False)
    batches: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.stop = StopRequest()
        self.evaluated_at = -1  # iterations when the policy was evaluated last
        self.rounds = self.config.generation_rounds()
        self.responses, self.group_size = self.targets.responses, self.targets.group_size

    def train(self) -> bool:
        """Run to the planned end, saving models and checkpoints when due.

        Returns:
            Whether the end was reached; False: SIGTERM came, and a checkpoint was saved.
        """
        size = self.responses // self.group_size
        total = self.config.planned_iterations(len(self.prompts), size)
        profiler = StepProfiler.of(self.config, total)
        with self.stop.listening():
            try:
                with self.report.bar(total, self.iteration):
                    if self.iteration == 0:
                        self._evaluate()
                    while self.iteration < total:
                        with profiler.watching(self.iteration + 1):
                            metrics = self.run_iteration(self._batch(size))
                        self._after_iteration(metrics, total)
                    self._evaluate()
            except StopRequestedError:
                folder = self.checkpointer.save(self.iteration, self._progress())
                distributed.log_main(how_to_resume(folder))
                return False
            self.checkpointer.save_final(self.generation_step)  # also when asked to stop by now
        return True

    def run_iteration(self, prompts: Sequence[PromptExample]) -> dict[str, float]:
        """Sample, score and learn from a group of responses to each of the prompts.

        Args:
            prompts: of all ranks, `responses` / `group_size` of them.

        Returns:
            Metrics, the same on all ranks.

        Raises:
            StopRequestedError: a rank was asked to stop before the updates; nothing has changed.
        """
        clock, states = Clock(), random_states()
        drawn: Drawn | None = None
        step = self.config.gradient_accumulation_steps, self.group_size, self.tokenizer.pad_token_id
        repeated = [prompt for prompt in prompts for _ in range(self.group_size)]
        size = len(repeated) // self.rounds
        experiences: list[Experience] = []
        rollouts: list[Rollout] = []  # that are no experience yet
        sums: dict[str, float] = defaultdict(float)
        try:
            if self.config.dynamic_sampling:
                with clock.phase("generate"):
                    drawn = self._draw(repeated)  # 1, 3
            for i in range(self.rounds):
                self.stop.check(self.device)
                with clock.phase("generate"):
                    if drawn is not None:
                        rollouts = drawn.rollouts[i]
                    else:
                        rollouts = self.sample(repeated[i * size : (i + 1) * size], i * size)  # 1
                    rollouts = steps_by_length(rollouts, i * len(rollouts), *step)
                with clock.phase("score"):
                    scored = self.scorer.score(self.actor, self.critic, rollouts)  # 2
                    rollouts = scored.rollouts
                    if drawn is not None:
                        rewards = drawn.rewards(rollouts)
                    else:
                        rewards = reward_rollouts(self.reward, rollouts)  # 3
                    found = to_experiences(scored, rewards)
                    if self.sample_term is not None:
                        found = self.sample_term(found, repeated)
                experiences, rollouts = [*experiences, *found], []
                for name, value in (scored.sums | rewards.sums).items():
                    sums[name] += value
                clock.seconds["penalty"] += scored.seconds
            self.stop.check(self.device)
            with clock.phase("update"):
                experiences, more = self.targets(experiences, self.iteration)  # 4
                agree(find_fault(experiences, self.reward.name), self.device)
                experiences, mismatch = self.correction(experiences)
                engines = self.actor, self.critic
                updates = self.updater.update(*engines, experiences, self.iteration)  # 5
            self.iteration += 1
            self.batches += 1 if drawn is None else drawn.tries
        except StopRequestedError:
            set_random_states(states)
            raise
        except BadStepError as error:  # before the updates
            self.iteration += 1
            self.batches += 1 if drawn is None else drawn.tries
            self._move_reference()
            self.bad_steps.bad(error, self.iteration, plain_rows([*experiences, *rollouts]))
            bad = self.bad_steps.metrics()
            return {**self._place(), "skipped": 1.0, **bad, "time/total_s": clock.total()}
        metrics = iteration_metrics(
            experiences, sums, self.targets.coefficient, self.device, self.group_size
        )
        more |= {} if drawn is None else drawn.metrics
        metrics |= {**more, **mismatch, **updates, "skipped": float(not updates)}
        metrics |= self.bad_steps.metrics()
        metrics |= self._move_reference()
        return {**self._place(), **metrics, **clock.metrics(metrics["response_tokens"])}

    def _move_reference(self) -> dict[str, float]:
        return {} if self.schedule is None else self.schedule.after(self.iteration)

    def _draw(self, repeated: Sequence[PromptExample]) -> Drawn:
        """The iteration's responses under `--dynamic_sampling`, rewarded."""

        def sample(number: int) -> list[Rollout]:
            self.stop.check(self.device)
            batch = repeated
            if number:
                prompts = self._batch(len(repeated) // self.group_size, number)
                batch = [prompt for prompt in prompts for _ in range(self.group_size)]
            size = len(batch) // self.rounds
            starts = range(0, len(batch), size)
            return [r for i in starts for r in self.sample(batch[i : i + size], i, number)]

        return draw_groups_with_spread(
            sample,
            self.reward,
            self.targets,
            self.config.dynamic_sampling_tries,
            self.rounds,
            self.config.per_device_training_batch_size,
            self.tokenizer.pad_token_id,
        )

    def sample(
        self, batch: Sequence[PromptExample], start: int = 0, number: int = 0
    ) -> list[Rollout]:
        """This rank's responses to its share of a generation batch, see `RolloutSampler`.

        Args:
            number: of the batch of prompts within the iteration, under dynamic sampling.
        """
        batches = self.batches if self.config.dynamic_sampling else self.iteration
        step = (batches + number) * self.rounds + start * self.rounds // self.responses
        rollouts = self.sampler.sample(self.actor, batch, step, start)
        config = self.config
        if config.print_answers and self.iteration % config.print_answers_interval == 0:
            prompt, response = rollouts[0].prompts[0], rollouts[0].responses[0]
            distributed.log_main(f"--- prompt: {prompt}\n--- response: {response}")
        return rollouts

    def _batch(self, size: int, number: int = 0) -> list[PromptExample]:
        """The prompts of the next iteration, or under dynamic sampling its n-th further ones."""
        batches = self.batches if self.config.dynamic_sampling else self.iteration
        epoch, place = divmod(batches + number, len(self.prompts) // size)
        numbers = prompt_batches(len(self.prompts), size, self.config.seed, epoch)[place]
        chosen = [self.prompts[i] for i in numbers]
        # The policy has learnt from these random numbers, or vLLM draws by others.
        if epoch > 0 or self.backend.name == "vllm":
            chosen = [replace(prompt, sample_rows=()) for prompt in chosen]
        return chosen

    def _after_iteration(self, metrics: dict[str, float], total: int) -> None:  # 6
        config = self.config
        self.report.iteration(metrics)
        if self.evaluate_every and self.iteration % self.evaluate_every == 0:
            self._evaluate()
        every, before = config.save_steps, self.generation_step - self.rounds
        if every and self.generation_step // every > before // every:
            self.checkpointer.save_models(self.generation_step)
        if self.iteration < total:  # nothing is left to resume at the end
            if config.checkpoint_steps and self.iteration % config.checkpoint_steps == 0:
                self.checkpointer.save(self.iteration, self._progress())
            self.stop.check(self.device)

    def _evaluate(self) -> None:
        if self.evaluate is None or self.evaluated_at == self.iteration:
            return
        found = self.evaluate(self)
        self.evaluated_at = self.iteration
        self.report.log.write({**self._place(), **{f"eval/{n}": v for n, v in found.items()}})

    def _place(self) -> dict[str, float]:
        return {"step": self.generation_step, "iteration": self.iteration}

    @property
    def generation_step(self) -> int:
        """Generation batches done."""
        return self.iteration * self.rounds

    def _progress(self) -> dict[str, Any]:
        bad = self.bad_steps.counts()
        return {
            "iteration": self.iteration,
            "batches": self.batches,
            "evaluated_at": self.evaluated_at,
            "bad_steps": bad,
        }

    def restore(self) -> None:
        """Resume from the run's checkpoint; all ranks call it on a trainer just built."""
        progress = self.checkpointer.restore()
        self.iteration, self.evaluated_at = progress["iteration"], progress["evaluated_at"]
        self.batches = progress.get("batches", self.iteration)  # unknown before 0.3.0
        self.bad_steps.set_counts(progress["bad_steps"])

    def final_model(self) -> Path:
        """The folder of the trained policy."""
        return self.checkpointer.final_model(self.generation_step)
