"""Sampling responses and scoring them: the first half of an online iteration.

1. sample responses to the prompts of a generation batch (`dschat.rollout.generation`);
2. score them: log-probabilities and penalty (`dschat.scoring.scoring`), rewards, values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.profiler import record_function

from dschat.data.prompts import PromptExample
from dschat.models.references import FrozenPolicy
from dschat.regularization import PolicyRegularizer, with_defaults
from dschat.rewards import RewardFunction, score_responses
from dschat.rollout.backends.base import GenerationBackend
from dschat.rollout.experience import Experience, Rollout
from dschat.rollout.generation import GenerationSettings
from dschat.rollout.sampler import RolloutSampler, Sampler
from dschat.runtime import distributed
from dschat.runtime.distributed import on_all_ranks
from dschat.runtime.faults import Fault, agree
from dschat.scoring.scoring import PenaltyScorer, to_experience
from dschat.settings.online import OnlineConfig


@dataclass
class ExperienceMaker:
    """Responses of the policy with everything that an update needs to know about them.

    Attributes:
        config: the run's settings.
        actor: DeepSpeed engine around a `PolicyModel`. critic: around a `ValueModel`, or None.
        references: what the policy is held near.
        reward: scores responses.
        regularizer: the penalty.
        tokenizer: of all models.
        device: this rank's.
        backend: samples the responses.
        generation_step: generation batches so far. iteration: iterations so far.
    """

    config: OnlineConfig
    actor: Any
    critic: Any | None
    references: Sequence[FrozenPolicy]
    reward: RewardFunction
    regularizer: PolicyRegularizer
    tokenizer: Any
    device: torch.device
    backend: GenerationBackend
    generation_step: int = field(default=0, init=False)
    iteration: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.regularizer = with_defaults(self.regularizer)
        self.rollouts: list[Rollout] = []  # those that were scored last
        self.rank, self.world = distributed.rank(), distributed.world_size()
        zero3 = self.actor.zero_optimization_partition_weights()
        gather = zero3 and self.config.enable_zero3_generation_gather
        settings = GenerationSettings.of(
            self.tokenizer,
            self.config.max_answer_seq_len,
            self.config.temperature,
            self.actor.module.output_layer.vocabulary_size,
        )
        self.sampler = RolloutSampler(
            Sampler(
                self.tokenizer,
                settings,
                self.config.seed,
                device=self.device,
                backend=self.backend,
                gather=gather,
                synced_gpus=zero3 and not gather and self.world > 1,
            ),
            self.config.per_device_training_batch_size,
            self.config.group_size(),
            keep_empty=self.critic is None,
            keep_states=self.config.reuse_rollout_logprobs,
        )
        self.scorer = PenaltyScorer(
            self.regularizer,
            self.references,
            self.config.temperature,
            distributed.union_over_ranks,
        )

    def sample(self, batch: list[PromptExample], start: int = 0) -> list[Rollout]:
        """This rank's responses to its share of a global generation batch, in micro-batches."""
        step = self.generation_step
        self.generation_step += 1
        rollouts = self.sampler.sample(self.actor, batch, step, start)
        self._print_answer(rollouts[0].prompts[0], rollouts[0].responses[0])
        return rollouts

    @record_function("score")
    @torch.no_grad()
    def score(self, rollouts: list[Rollout]) -> tuple[list[Experience], dict[str, float]]:
        """Experience of one generation batch, and sums of the metrics of penalty and reward.

        Args:
            rollouts: their `states` are dropped from the list once they are scored.
        """
        self.actor.eval()
        self.rollouts, fault = rollouts, None
        try:
            tokens, sums, positions = self.scorer(self.actor, rollouts)
        except ValueError as error:
            prompts = tuple(prompt for rollout in rollouts for prompt in rollout.prompts)
            fault = Fault(f"the penalty cannot be computed: {error}", self.rank, prompts)
        agree(fault, self.device)
        # What sampling kept has been used; in the caller's list too, or it would stay in memory
        # until the next batch has been sampled.
        rollouts[:] = [replace(rollout, states=None) for rollout in rollouts]
        # Who waits within a collective reward cannot be told of a failure: that rank ends, and with
        # it the others.
        with contextlib.nullcontext() if self.reward.collective else on_all_ranks():
            scores, reward_sums = self._rewards(rollouts)
        experiences = []
        for rollout, token_scores in zip(rollouts, tokens, strict=True):
            values = None
            if self.critic is not None:
                self.critic.eval()
                values = self.critic(*rollout.model_inputs())
            mine, scores = scores[: len(rollout.prompts)], scores[len(rollout.prompts) :]
            tensor = torch.tensor(mine, dtype=torch.float32, device=self.device)
            experiences.append(to_experience(rollout, token_scores, values, tensor))
        sums = {f"penalty/{name}": value for name, value in sums.items()}
        return experiences, {**sums, **reward_sums, "positions": float(positions)}

    def _rewards(self, rollouts: list[Rollout]) -> tuple[list[float], dict[str, float]]:
        """A score per response, and sums of the reward's parts where it can tell them."""
        prompts = [p for r in rollouts for p in r.prompts]
        responses = [t for r in rollouts for t in r.responses]
        examples = [e for r in rollouts for e in r.examples]
        scores, parts = score_responses(self.reward, prompts, responses, examples, finite=False)
        sums = {f"reward/{part}": float(sum(values)) for part, values in parts.items()}
        return scores, sums

    def _print_answer(self, prompt: str, response: str) -> None:
        config = self.config
        if config.print_answers and self.iteration % config.print_answers_interval == 0:
            distributed.log_main(f"--- prompt: {prompt}\n--- response: {response}")
