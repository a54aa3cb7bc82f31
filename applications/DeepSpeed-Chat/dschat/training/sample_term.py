"""Weights of the references' samples in the loss: the forward KL keeps its coefficient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from dschat.data.prompts import PromptExample
from dschat.models.ends import ends_of
from dschat.rollout.experience import Experience
from dschat.rollout.reference_samples import samples_of
from dschat.training.online_config import OnlineConfig


def with_samples(
    experiences: Sequence[Experience],
    prompts: Sequence[PromptExample],
    coefficient: float,
    config: OnlineConfig,
    tokenizer: Any,
    device: torch.device,
) -> list[Experience]:
    """The micro-batches of one rank with the references' samples to their prompts.

    The policy's loss sums over a group's responses, the samples' over the prompt's M samples: each
    sample weighs group size / M times a response. GRPO's baseline contains the response's own
    reward, which takes 1 / group size off the reward's gradient (see `group_centred`); as much is
    taken off here.

    Args:
        prompts: those of all ranks' responses of the iteration, at their places, with `samples`.
        coefficient: of sum_k w_k KL(rho_k || pi).
    """
    group_size = config.group_size()
    result = []
    for e in experiences:
        places = e.rollout.places.tolist()
        batch = [prompts[place] for place in places]
        samples = samples_of(
            [p.ids for p in batch],
            [p.samples for p in batch],
            places,
            group_size,
            ends_of(tokenizer).ids,
            tokenizer.pad_token_id,
            device,
        )
        weight = coefficient * group_size / len(batch[0].samples)
        if config.algorithm == "grpo":
            weight *= 1 - 1 / group_size
        rows = 0 if samples is None else len(samples.places)
        weights = torch.full((rows,), weight, device=device)
        result.append(replace(e, samples=samples, sample_weights=weights))
    return result
