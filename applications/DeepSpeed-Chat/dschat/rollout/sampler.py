"""Prompts -> responses: the one module that collates, draws, generates and decodes.

`Sampler` samples from a plain model, or from a DeepSpeed engine through a generation backend;
`RolloutSampler` makes of it the rollouts of a training step on one rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dschat.data.ends import decode_responses, ends_of
from dschat.data.prompts import PromptExample, collate_prompts, rank_share
from dschat.rollout.backends.base import GenerationBackend
from dschat.rollout.experience import Rollout, make_rollout
from dschat.rollout.generation import (
    GenerationRequest,
    GenerationSettings,
    generate,
    uniform_numbers,
)
from dschat.rollout.reference_samples import uniform_numbers_of_samples
from dschat.rollout.sampled_states import SampledStates
from dschat.runtime import distributed
from dschat.runtime.random_states import random_states, set_random_states
from dschat.settings.online import OnlineConfig


@dataclass(frozen=True)
class Sampler:
    """Samples one response to each prompt.

    A response depends on the weights, the prompt and its own uniform numbers; not (up to rounding)
    on the batch that it is sampled in.

    Attributes:
        tokenizer: of the policy; see `ends_of` for what ends a response.
        settings: see `GenerationSettings.of`.
        seed: of `numbers`.
        batch_size: prompts that go through the policy together; None: all.
        device: of the policy; None: where its parameters are.
        backend: samples from a DeepSpeed engine around a `PolicyModel`; None: `generate` from a
            plain `AutoModelForCausalLM`.
        gather, synced_gpus: under ZeRO 3, see `GenerationRequest`.
    """

    tokenizer: Any
    settings: GenerationSettings
    seed: int = 0
    batch_size: int | None = None
    device: torch.device | None = None
    backend: GenerationBackend | None = None
    gather: bool = False
    synced_gpus: bool = False

    def numbers(self, prompts: int, step: int = 0) -> Tensor:
        """[prompts, max_new_tokens] the uniform numbers of a batch, see `uniform_numbers`."""
        return uniform_numbers(prompts, self.settings.max_new_tokens, self.seed, step)

    @torch.no_grad()
    def sample(
        self,
        policy: Any,
        prompts: Sequence[PromptExample],
        uniform: Tensor | None,
        kept: SampledStates | None = None,
        progress: str | None = None,
    ) -> list[list[int]]:
        """One response to each prompt, as token ids.

        The policy is left in eval mode, the process's random numbers as they were.

        Args:
            policy: see `backend` above.
            uniform: [prompts, max_new_tokens], see `numbers`; None: greedy.
            kept: takes the state before each token (native decoding, all prompts in one batch).
            progress: names a progress bar on the main rank; None: no bar.

        Raises:
            UserError: the backend cannot be used with this model.
        """
        policy.eval()
        device = self.device or next(policy.parameters()).device
        size = self.batch_size or max(len(prompts), 1)
        # Prompts of like length together: less padding.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
        if len(prompts) <= size:
            order = list(range(len(prompts)))
        responses: list[list[int]] = [[] for _ in prompts]
        states = random_states()
        silent = progress is None or not distributed.is_main()
        try:
            with tqdm(total=len(prompts), desc=progress, disable=silent, mininterval=0.5) as bar:
                for start in range(0, len(prompts), size):
                    rows = order[start : start + size]
                    ids, attention = collate_prompts(
                        [prompts[i] for i in rows], self.settings.pad_token_id
                    )
                    request = GenerationRequest(
                        ids.to(device),
                        attention.to(device),
                        None if uniform is None else uniform[rows],
                        self.settings,
                        kept,
                        self.gather,
                        self.synced_gpus,
                    )
                    found = (self.backend or generate)(policy, request)
                    for row, response in zip(rows, found, strict=True):
                        responses[row] = response
                    bar.update(len(rows))
        finally:
            set_random_states(states)
        return responses

    def decode(self, responses: Sequence[list[int]]) -> list[str]:
        """Texts of responses, without what ends them."""
        return decode_responses(self.tokenizer, responses)

    def ended(self, response: Sequence[int]) -> bool:
        """Whether a response ended by itself, and not at the length limit."""
        return ends_of(self.tokenizer).close(response)

    def rollouts(
        self,
        prompts: Sequence[PromptExample],
        responses: Sequence[list[int]],
        size: int,
        device: torch.device,
        indices: Sequence[int] | None = None,
        keep_empty: bool = False,
        kept: SampledStates | None = None,
        behaviour: Sequence[Sequence[float]] | None = None,
    ) -> list[Rollout]:
        """Prompts and their responses in micro-batches of `size`, each padded to its own longest.

        Args:
            indices, keep_empty: see `make_rollout`.
            kept: what `sample` kept of these responses.
            behaviour: see `make_rollout`.
        """
        states = None if kept is None else kept.of_responses(responses)
        texts, indices = self.decode(responses), indices or range(len(prompts))
        return [
            make_rollout(
                [p.ids for p in prompts[i : i + size]],
                list(responses[i : i + size]),
                [p.text for p in prompts[i : i + size]],
                texts[i : i + size],
                [{**p.example, "conversation": p.conversation} for p in prompts[i : i + size]],
                ends_of(self.tokenizer),
                self.settings.pad_token_id,
                device,
                list(indices[i : i + size]),
                keep_empty,
                None if states is None else states[i : i + size],
                None if behaviour is None else behaviour[i : i + size],
            )
            for i in range(0, len(prompts), size)
        ]


@dataclass(frozen=True)
class RolloutSampler:
    """Rollouts of one rank: its share of a global generation batch.

    Attributes:
        sampler: of the policy's engine, with this rank's `device`.
        micro_batch: rows of a rollout.
        group_size: responses to each prompt.
        keep_empty: see `make_rollout`.
        keep_states: keep the hidden states of sampling for scoring.
        rank, world: of this process, and their number.
    """

    sampler: Sampler
    micro_batch: int
    group_size: int = 1
    keep_empty: bool = False
    keep_states: bool = False
    rank: int = field(default_factory=distributed.rank)
    world: int = field(default_factory=distributed.world_size)

    @classmethod
    def of(
        cls,
        config: OnlineConfig,
        engine: Any,
        tokenizer: Any,
        device: torch.device,
        backend: GenerationBackend,
        keep_empty: bool,
    ) -> RolloutSampler:
        """The sampler of an online run.

        Args:
            engine: the actor's DeepSpeed engine.
        """
        zero3 = engine.zero_optimization_partition_weights()
        gather = zero3 and config.enable_zero3_generation_gather
        settings = GenerationSettings.of(
            tokenizer,
            config.max_answer_seq_len,
            config.temperature,
            engine.module.output_layer.vocabulary_size,
        )
        sampler = Sampler(
            tokenizer,
            settings,
            config.seed,
            device=device,
            backend=backend,
            gather=gather,
            synced_gpus=zero3 and not gather and distributed.world_size() > 1,
        )
        return cls(
            sampler,
            config.per_device_training_batch_size,
            config.group_size(),
            keep_empty,
            config.reuse_rollout_logprobs,
        )

    def sample(
        self, policy: Any, batch: Sequence[PromptExample], step: int, start: int = 0
    ) -> list[Rollout]:
        """This rank's responses to its share of a global generation batch, in micro-batches.

        Args:
            policy: the actor's DeepSpeed engine.
            batch: the prompts of all ranks, one for each response.
            step: number of the generation batch in the run.
            start: index of the batch's first response among those of the iteration.
        """
        sampler, device = self.sampler, self.sampler.device
        assert device is not None
        share = rank_share(len(batch), self.rank, self.world, self.micro_batch)
        mine, limit = [batch[i] for i in share], sampler.settings.max_new_tokens
        numbers = sampler.numbers(len(batch), step)
        for i in share:
            # A response with the random numbers of the references' sample that goes with it.
            member, rows = (start + i) % self.group_size, batch[i].sample_rows
            if member < len(rows):
                numbers[i] = uniform_numbers_of_samples(limit, sampler.seed, [rows[member]])[0]
        kept = SampledStates(len(mine), limit) if self.keep_states else None
        responses = sampler.sample(policy, mine, numbers[share], kept)
        indices = [start + i for i in share]
        told = None if sampler.backend is None else sampler.backend.logprobs
        return sampler.rollouts(
            mine, responses, self.micro_batch, device, indices, self.keep_empty, kept, told
        )
