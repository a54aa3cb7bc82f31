"""Sampling a generation batch from an engine, in whatever ZeRO stage it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dschat.data.ends import decode_responses, ends_of
from dschat.data.prompts import PromptExample, collate_prompts
from dschat.rollout.backends.base import GenerationBackend, GenerationRequest
from dschat.rollout.experience import Rollout, make_rollout
from dschat.rollout.sampled_states import SampledStates
from dschat.runtime import distributed
from dschat.runtime.random_states import random_states, set_random_states
from dschat.settings.online import OnlineConfig


def sample_responses(
    engine: Any,
    prompts: Sequence[PromptExample],
    uniform: Tensor | None,
    config: OnlineConfig,
    tokenizer: Any,
    device: torch.device,
    backend: GenerationBackend,
    kept: SampledStates | None = None,
) -> list[list[int]]:
    """One response to each of this rank's prompts, as token ids.

    Args:
        engine: the actor's DeepSpeed engine; it is put into eval mode.
        uniform: [prompts, max_answer_seq_len], see `uniform_numbers`; None takes the likeliest
            token every time.
        backend: who samples. The run's random numbers are left as they were.
        kept: takes the state before each token (native).

    Raises:
        UserError: the backend cannot be used with this model.
    """
    zero3 = engine.zero_optimization_partition_weights()
    gather = zero3 and config.enable_zero3_generation_gather
    engine.eval()
    ids, attention = collate_prompts(prompts, tokenizer.pad_token_id)
    request = GenerationRequest(
        ids.to(device),
        attention.to(device),
        uniform,
        config.max_answer_seq_len,
        config.temperature,
        ends_of(tokenizer).ids,
        tokenizer.pad_token_id,
        engine.module.output_layer.vocabulary_size,
        kept,
        gather=gather,
        synced_gpus=zero3 and not gather and distributed.world_size() > 1,
    )
    states = random_states()
    try:
        return backend(engine, request)
    finally:
        set_random_states(states)


def micro_batches(
    prompts: Sequence[PromptExample],
    responses: Sequence[list[int]],
    places: Sequence[int],
    size: int,
    tokenizer: Any,
    device: torch.device,
    keep_empty: bool,
    kept: SampledStates | None = None,
) -> list[Rollout]:
    """Prompts and their responses in runs of `size`, each padded to its own longest."""
    states = None if kept is None else kept.of_responses(responses)
    texts = decode_responses(tokenizer, responses)
    ends = ends_of(tokenizer).ids
    return [
        make_rollout(
            [p.ids for p in prompts[i : i + size]],
            list(responses[i : i + size]),
            [p.text for p in prompts[i : i + size]],
            texts[i : i + size],
            [{**p.example, "conversation": p.conversation} for p in prompts[i : i + size]],
            ends,
            tokenizer.pad_token_id,
            device,
            list(places[i : i + size]),
            keep_empty,
            None if states is None else states[i : i + size],
        )
        for i in range(0, len(prompts), size)
    ]
