"""The online trainer: sample, score, compute advantages, update; again.

One iteration:
1. sample one response to each prompt of one or more generation batches;
2. score them: log-probabilities, penalty, values, rewards (`dschat.rollout.scoring`);
3. turn rewards and penalties into advantages and returns (`dschat.training.targets`);
4. update actor and critic, `ppo_epochs` times over the iteration's micro-batches.

Where it departs from DeepSpeed-Chat: an optimiser step never accumulates over responses of two
different policies; losses are divided by the token count of the whole step over all ranks; a
response without a token is masked instead of being replaced by the previous batch.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from dschat.data.prompts import PromptExample, collate_prompts, prompt_batches, rank_share
from dschat.errors import UserError
from dschat.regularization import PolicyRegularizer
from dschat.rewards import RewardFunction, check_rewards
from dschat.rollout.experience import Experience, Rollout, make_rollout
from dschat.rollout.generation import generate, uniform_numbers, whole_model
from dschat.rollout.scoring import PenaltyScorer, Reference, to_experience
from dschat.training import distributed
from dschat.training.iteration_metrics import iteration_metrics, progress_line
from dschat.training.online_config import OnlineConfig
from dschat.training.run_files import MetricsLog
from dschat.training.saving import save_step
from dschat.training.targets import with_targets
from dschat.training.updates import update


@dataclass
class OnlineTrainer:
    """PPO with any regulariser and any reward.

    Attributes:
        config: the run's settings.
        actor, critic: DeepSpeed engines around a `PolicyModel` and a `ValueModel`.
        references: what the policy is held near.
        reward: scores responses.
        regularizer: the penalty.
        tokenizer: of all models.
        prompts: the prompts to learn from, the same list on all ranks.
        device: this rank's.
        log: where metrics go.
    """

    config: OnlineConfig
    actor: Any
    critic: Any
    references: list[Reference]
    reward: RewardFunction
    regularizer: PolicyRegularizer
    tokenizer: Any
    prompts: list[PromptExample]
    device: torch.device
    log: MetricsLog
    generation_step: int = field(default=0, init=False)
    iteration: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.rank, self.world = distributed.rank(), distributed.world_size()
        self.rounds = self.config.generation_rounds()
        self.scorer = PenaltyScorer(
            self.regularizer,
            self.references,
            self.config.temperature,
            distributed.union_over_ranks,
        )

    def train(self) -> None:
        """Run all epochs, saving every `save_steps` generation batches and at the end."""
        from tqdm import tqdm

        config = self.config
        size = config.per_device_generation_batch_size * self.world * self.rounds
        per_epoch = len(prompt_batches(len(self.prompts), size, config.seed, 0))
        total = per_epoch * config.num_train_epochs
        if config.enable_test_mode:
            total = min(total, config.test_stop_step)
        bar = tqdm(total=total, disable=not distributed.is_main(), desc="PPO", mininterval=0.5)
        saved = 0
        for epoch in range(config.num_train_epochs):
            for batch in prompt_batches(len(self.prompts), size, config.seed, epoch):
                if self.iteration == total:
                    break
                metrics = self.run_iteration([self.prompts[i] for i in batch])
                self.log.write(metrics)
                bar.set_postfix_str(progress_line(metrics), refresh=False)
                bar.update()
                if config.save_steps and self.generation_step // config.save_steps > saved:
                    saved = self.generation_step // config.save_steps
                    self.save()
        bar.close()
        if not (config.save_steps and self._just_saved):
            self.save()

    _just_saved: bool = field(default=False, init=False)

    def save(self) -> None:
        """Write output_dir/step-N, N the generation batches so far."""
        assert self.config.output_dir is not None
        folder = save_step(
            self.config.output_dir,
            self.generation_step,
            {"actor": self.actor.module.model, "critic": self.critic.module.model},
            self.tokenizer,
        )
        self._just_saved = True
        distributed.log_main(f"saved {folder}")

    def run_iteration(self, prompts: list[PromptExample]) -> dict[str, float]:
        """Sample, score and learn from the prompts of all ranks' generation batches.

        Args:
            prompts: ranks x generation batch size x rounds of them, the same on all ranks.

        Returns:
            Metrics, the same on all ranks.
        """
        self._just_saved = False
        started = time.perf_counter()
        size = len(prompts) // self.rounds
        experiences: list[Experience] = []
        penalty_sums: dict[str, float] = {}
        seconds = {"generate": 0.0, "score": 0.0}
        for round_ in range(self.rounds):
            batch = prompts[round_ * size : (round_ + 1) * size]
            at = time.perf_counter()
            rollouts = self.sample(batch)
            seconds["generate"] += time.perf_counter() - at
            at = time.perf_counter()
            scored, sums = self.score(rollouts)
            seconds["score"] += time.perf_counter() - at
            experiences += scored
            for name, value in sums.items():
                penalty_sums[name] = penalty_sums.get(name, 0.0) + value
        at = time.perf_counter()
        update_metrics = self.learn(experiences)
        seconds["update"] = time.perf_counter() - at
        self.iteration += 1
        metrics = iteration_metrics(experiences, penalty_sums, self.config.kl_ctl, self.device)
        seconds["total"] = time.perf_counter() - started
        tokens = metrics["response_tokens"]
        return {
            "step": self.generation_step,
            "iteration": self.iteration,
            **metrics,
            **update_metrics,
            "skipped": float(not update_metrics),
            **{f"time/{name}_s": value for name, value in seconds.items()},
            "time/tokens_per_s": tokens / seconds["total"],
        }

    def sample(self, batch: list[PromptExample]) -> list[Rollout]:
        """This rank's responses to its share of a global generation batch, in micro-batches."""
        config = self.config
        mine = rank_share(batch, self.rank, self.world)
        uniform = uniform_numbers(
            len(batch),
            config.max_answer_seq_len,
            config.seed,
            self.generation_step,
            self.rank,
            self.world,
        )
        self.generation_step += 1
        zero3 = self.actor.zero_optimization_partition_weights()
        self.actor.eval()
        prompt_ids = [p.ids for p in mine]
        ids, attention = collate_prompts(mine, self.tokenizer.pad_token_id)
        gather = zero3 and config.enable_zero3_generation_gather
        with whole_model(self.actor, gather) as model:
            responses = generate(
                model,
                ids.to(self.device),
                attention.to(self.device),
                uniform,
                config.max_answer_seq_len,
                config.temperature,
                self.tokenizer.eos_token_id,
                self.tokenizer.pad_token_id,
                synced_gpus=zero3 and not gather and self.world > 1,
            )
        texts = self.tokenizer.batch_decode(responses, skip_special_tokens=True)
        self._print_answer(mine[0].text, texts[0])
        step = config.per_device_training_batch_size
        return [
            make_rollout(
                prompt_ids[i : i + step],
                responses[i : i + step],
                [p.text for p in mine[i : i + step]],
                texts[i : i + step],
                [p.example for p in mine[i : i + step]],
                self.tokenizer.eos_token_id,
                self.tokenizer.pad_token_id,
                self.device,
            )
            for i in range(0, len(mine), step)
        ]

    @torch.no_grad()
    def score(self, rollouts: list[Rollout]) -> tuple[list[Experience], dict[str, float]]:
        """Experience of one generation batch, and sums of the regulariser's metrics."""
        self.actor.eval()
        self.critic.eval()
        try:
            tokens, sums, positions = self.scorer(self.actor, rollouts)
        except ValueError as error:
            raise UserError(f"The penalty cannot be computed: {error}.") from error
        prompts = [p for r in rollouts for p in r.prompts]
        responses = [t for r in rollouts for t in r.responses]
        examples = [e for r in rollouts for e in r.examples]
        name = getattr(self.reward, "name", type(self.reward).__name__)
        scores = check_rewards(self.reward(prompts, responses, examples), prompts, name)
        experiences = []
        for rollout, token_scores in zip(rollouts, tokens, strict=True):
            values = self.critic(*rollout.model_inputs())
            mine, scores = scores[: len(rollout.prompts)], scores[len(rollout.prompts) :]
            tensor = torch.tensor(mine, dtype=torch.float32, device=self.device)
            experiences.append(to_experience(rollout, token_scores, values, tensor))
        return experiences, {**sums, "positions": float(positions)}

    def learn(self, experiences: list[Experience]) -> dict[str, float]:
        """Advantages, then `ppo_epochs` passes of updates; the mean of the updates' metrics."""
        config = self.config
        clip = getattr(self.regularizer, "reward_clip", None)
        experiences = [
            with_targets(e, config.kl_ctl, clip, config.gamma, config.lam, config.clip_reward_value)
            for e in experiences
        ]
        self.actor.train()
        self.critic.train()
        order = random.Random(config.seed * 1_000_003 + self.iteration)
        size = config.gradient_accumulation_steps
        collected: list[dict[str, float]] = []
        for epoch in range(config.ppo_epochs):
            if epoch > 0:
                order.shuffle(experiences)
            for i in range(0, len(experiences), size):
                metrics = update(self.actor, self.critic, experiences[i : i + size])
                if metrics:
                    collected.append(metrics)
        names = collected[0] if collected else {}
        return {name: sum(m[name] for m in collected) / len(collected) for name in names}

    def _print_answer(self, prompt: str, response: str) -> None:
        config = self.config
        if config.print_answers and self.iteration % config.print_answers_interval == 0:
            distributed.log_main(f"--- prompt: {prompt}\n--- response: {response}")
