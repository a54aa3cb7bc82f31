"""Weights of the references' samples in the loss: the forward KL keeps its coefficient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from dschat.data.ends import ends_of
from dschat.data.prompts import PromptExample
from dschat.rollout.experience import Experience
from dschat.rollout.reference_samples import positions_in_common, samples_of
from dschat.settings.online import OnlineConfig

SampleTerm = Callable[[Sequence[Experience], Sequence[PromptExample]], list[Experience]]
"""`with_samples` of a run: (micro-batches, prompts of the iteration's responses)."""


def with_samples(
    experiences: Sequence[Experience],
    prompts: Sequence[PromptExample],
    config: OnlineConfig,
    tokenizer: Any,
    device: torch.device,
) -> list[Experience]:
    """The micro-batches of one rank with the references' samples to their prompts.

    The policy's loss sums over a group's responses, the samples' over the prompt's M samples: each
    sample weighs group size / M times a response. GRPO's baseline contains the response's own
    reward, which takes 1 / group size off the reward's gradient (see `group_centred`); as much is
    taken off here.

    Where a prompt knows its samples' random numbers, its first responses were drawn with the same
    ones, and -log pi of a sample gets a control variate: + log pi of the response's tokens as long
    as it has been the sample, word for word. Its gradient has mean 0 (see `positions_in_common`),
    and takes away what both have in common: all of it where the policy is the reference. It enters
    through the advantages and costs nothing. Not where every response's loss is divided by its
    length, which would give it a mean.

    Args:
        prompts: those of all ranks' responses of the iteration, by index, with `samples`.
        config: its `sample_coefficient` is that of sum_k w_k KL(rho_k || pi).
    """
    group_size = config.group_size()
    result = []
    for e in experiences:
        indices = e.rollout.indices.tolist()
        batch = [prompts[index] for index in indices]
        samples = samples_of(
            [p.ids for p in batch],
            [p.samples for p in batch],
            indices,
            group_size,
            ends_of(tokenizer),
            tokenizer.pad_token_id,
            device,
        )
        weight = config.sample_coefficient * group_size / len(batch[0].samples)
        if config.estimator == "grpo":
            weight *= 1 - 1 / group_size
        rows = 0 if samples is None else len(samples.indices)
        weights = torch.full((rows,), weight, device=device)
        control = None
        if config.loss_normalization != "sequence":
            known = [p.samples[: len(p.sample_rows)] for p in batch]
            r = e.rollout
            common = positions_in_common(r.actions, r.response_mask, known, indices, group_size)
            control = weight * common.float()
        result.append(replace(e, samples=samples, sample_weights=weights, sample_control=control))
    return result
