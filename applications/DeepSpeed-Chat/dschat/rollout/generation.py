"""Sampling from the tempered policy, the same whatever the number of ranks.

Each prompt of the global batch has its own row of uniform numbers, and a token is where the
cumulative probability passes that number. So a response depends on the weights, the seed and the
prompt's place in the global batch, not on which rank, or beside which other prompts, it was
sampled. It is also cheaper than `multinomial`. Models with plain attention go through
`dschat.rollout.decoding`, others through transformers' `generate`; the tokens are the same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from dschat.data.ends import EndIds, end_ids
from dschat.models.key_values import has_plain_cache
from dschat.rollout.decoding import decode
from dschat.rollout.sampled_states import SampledStates


def uniform_numbers(global_batch_size: int, length: int, seed: int, step: int) -> Tensor:
    """The step's uniform numbers in [0, 1), a row for each place in the global batch.

    Returns:
        [global_batch_size, length] float64 on CPU; a rank takes the rows of its places.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
    return torch.rand(global_batch_size, length, generator=generator, dtype=torch.float64)


def sample_by_inverse_cdf(
    logits: Tensor, uniform: Tensor, temperature: float, top_k: int | None = None
) -> Tensor:
    """[B, V] logits and [B] uniform numbers -> [B] token ids ~ softmax(logits / temperature).

    Probabilities add up in float64, so that a token's chance is its probability to within 1e-12
    also at 256,000 tokens; a token of probability 0 is never chosen.

    Args:
        top_k: only the so many likeliest tokens are possible (and what equals the last of them, as
            in transformers); None: all.
    """
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = (logits.float() / temperature).softmax(dim=-1)
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # Rounding may take a number just below 1 to the whole, behind which tokens of probability 0
    # could follow.
    below = torch.nextafter(total, torch.zeros_like(total))
    threshold = torch.minimum(uniform.to(cumulative).unsqueeze(1) * total, below)
    found = torch.searchsorted(cumulative, threshold, right=True).squeeze(1)
    # NaN logits of a policy that has diverged give any token there is: scoring tells of them.
    return found.clamp(max=logits.shape[-1] - 1)


class _InverseCDF(LogitsProcessor):
    """Leaves one token possible: the sampled one, which transformers' greedy search then takes."""

    def __init__(
        self,
        uniform: Tensor,
        temperature: float,
        prompt_length: int,
        vocabulary_size: int | None,
        top_k: int | None,
    ) -> None:
        self.uniform = uniform
        self.top_k = top_k
        self.vocabulary_size = vocabulary_size
        self.temperature = temperature
        self.prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        step = input_ids.shape[1] - self.prompt_length
        possible = scores[:, : self.vocabulary_size]
        numbers = self.uniform[:, step]
        token = sample_by_inverse_cdf(possible, numbers, self.temperature, self.top_k)
        chosen = torch.full_like(scores, -torch.inf)
        return chosen.scatter_(1, token.unsqueeze(1), 0.0)


class _FirstTokens(LogitsProcessor):
    """Makes all but the first tokens of the vocabulary impossible."""

    def __init__(self, vocabulary_size: int) -> None:
        self.vocabulary_size = vocabulary_size

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        possible = torch.arange(scores.shape[1], device=scores.device) < self.vocabulary_size
        return scores.masked_fill(~possible, -torch.inf)


@contextmanager
def whole_model(engine: Any, gather: bool) -> Iterator[Any]:
    """The actor's plain model, ready to generate.

    Under ZeRO 3 with `gather` all parameters are gathered once and the engine's hooks are taken
    off meanwhile: with the hooks on, ranks that generate different numbers of tokens would wait
    for each other for ever.
    """
    model = engine.module.model
    if not gather:
        yield model
        return
    import deepspeed
    from trl.models.utils import add_hooks, remove_hooks

    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        remove_hooks(engine)
        try:
            yield model
        finally:
            add_hooks(engine)


@torch.no_grad()
def generate(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    uniform: Tensor | None,
    max_new_tokens: int,
    temperature: float,
    ends: EndIds,
    pad_token_id: int,
    synced_gpus: bool = False,
    vocabulary_size: int | None = None,
    top_k: int | None = None,
    kept: SampledStates | None = None,
    own_decoding: bool = True,
) -> list[list[int]]:
    """Sample one response per prompt (greedy where `uniform` is None).

    A model folder may bring a top_p or a repetition penalty of its own; they are not used: the
    policy whose divergence is measured is the plain tempered softmax.

    Args:
        model: an `AutoModelForCausalLM` in eval mode.
        input_ids, attention_mask: [B, P], left-padded.
        uniform: [B, max_new_tokens] numbers in [0, 1) (see `uniform_numbers`).
        ends: the token or tokens that end a response.
        synced_gpus: keep ranks in step; needed under ZeRO 3 without gathering.
        vocabulary_size: sample among the first so many tokens only; None: all.
        top_k: sample among the so many likeliest tokens only; None: all.
        kept: takes the state before each token.
        own_decoding: use `dschat.rollout.decoding` where it can be; else always transformers.

    Returns:
        B lists of response ids, the end token included where the response ended by itself.

    Raises:
        ValueError: `kept` is given, and transformers would sample, which shows no states.
    """
    numbers = None if uniform is None else uniform.to(input_ids.device)
    if own_decoding and has_plain_cache(model) and not synced_gpus:

        def pick(logits: Tensor, rows: Tensor, step: int) -> Tensor:
            possible = logits[:, :vocabulary_size]
            if numbers is None:
                return possible.float().argmax(dim=-1)
            return sample_by_inverse_cdf(possible, numbers[rows, step], temperature, top_k)

        return decode(model, input_ids, attention_mask, pick, max_new_tokens, ends, kept)
    if kept is not None:
        raise ValueError(f"{type(model).__name__} is sampled from by transformers: no states kept")
    processors = LogitsProcessorList()
    if numbers is not None:
        length = input_ids.shape[1]
        processors.append(_InverseCDF(numbers, temperature, length, vocabulary_size, top_k))
    elif vocabulary_size is not None:
        processors.append(_FirstTokens(vocabulary_size))
    return _generate_by_transformers(
        model,
        input_ids,
        attention_mask,
        processors,
        max_new_tokens,
        end_ids(ends),
        pad_token_id,
        synced_gpus,
    )


def _generate_by_transformers(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    processors: LogitsProcessorList,
    max_new_tokens: int,
    ends: tuple[int, ...],
    pad_token_id: int,
    synced_gpus: bool,
) -> list[list[int]]:
    """Greedy search over what the processors leave possible."""
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=list(ends),
        pad_token_id=pad_token_id,
        use_cache=True,
    )
    own_settings = copy.deepcopy(model.generation_config)
    model.generation_config = settings
    try:
        sequences = model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            logits_processor=processors,
            generation_config=settings,
            synced_gpus=synced_gpus,
        )
    finally:
        model.generation_config = own_settings
    responses = sequences[:, input_ids.shape[1] :].tolist()
    return [_until_end(response, ends, max_new_tokens) for response in responses]


def _until_end(response: list[int], ends: tuple[int, ...], limit: int) -> list[int]:
    """Cut what was padded after the end token."""
    end = next((i for i, token in enumerate(response) if token in ends), limit - 1)
    return response[: end + 1]
