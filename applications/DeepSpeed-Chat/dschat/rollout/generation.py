"""Sampling from the tempered policy, the same whatever the number of ranks.

Each prompt of the global batch has its own row of uniform numbers, and a token is where the
cumulative probability passes that number. So a response depends on the weights, the seed and the
prompt's index in the global batch, not on which rank, or beside which other prompts, it was
sampled. It is also cheaper than `multinomial`. Models with plain attention go through
`dschat.rollout.decoding`, others through transformers' `generate`; the tokens are the same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from dschat.data.ends import ends_of
from dschat.data.stop_texts import StopTexts, StopWatch
from dschat.models.key_values import has_plain_cache
from dschat.models.output_layer import tokens_of
from dschat.models.zero3 import whole_parameters
from dschat.rollout.decoding import decode
from dschat.rollout.sampled_states import SampledStates

SEED_BITS = 53
"""Of a uniform number in float64: as many different seeds there are."""


@dataclass(frozen=True)
class GenerationSettings:
    """How responses are sampled, whatever the prompts.

    Attributes:
        max_new_tokens: the length limit of a response.
        temperature: of the softmax.
        end_ids: the tokens that end a response; one of them is its last token then.
        pad_token_id: pads prompts on the left.
        vocabulary_size: sample among the first `vocabulary_size` tokens only; None: all.
        top_k: sample among the top_k tokens (and those that equal the last of them, as in
            transformers) only; None: all.
        stops: texts that end a response; None: there are none.
    """

    max_new_tokens: int
    temperature: float
    end_ids: tuple[int, ...]
    pad_token_id: int
    vocabulary_size: int | None = None
    top_k: int | None = None
    stops: StopTexts | None = None

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        max_new_tokens: int,
        temperature: float,
        vocabulary_size: int | None = None,
        top_k: int | None = None,
    ) -> GenerationSettings:
        """The settings for a model's tokenizer: its ends, padding and vocabulary.

        Args:
            vocabulary_size: None: the tokenizer's, so that every response can be decoded.
        """
        ends = ends_of(tokenizer)
        return cls(
            max_new_tokens,
            temperature,
            ends.ids,
            tokenizer.pad_token_id,
            vocabulary_size or tokens_of(tokenizer),
            top_k,
            ends.texts,
        )

    def until_end(self, response: list[int]) -> list[int]:
        """A response without what an engine may have made after its end."""
        first = (i + 1 for i, token in enumerate(response) if token in self.end_ids)
        response = response[: next(first, self.max_new_tokens)]
        return response if self.stops is None else response[: self.stops.length(response)]


@dataclass(frozen=True)
class GenerationRequest:
    """One response to each prompt, from the plain softmax at a temperature.

    Attributes:
        input_ids, attention_mask: [B, P] the prompts, left-padded, on the model's device.
        uniform: [B, max_new_tokens] numbers in [0, 1), a row per response (see
            `uniform_numbers`); None: greedy.
        settings: see `GenerationSettings`.
        kept: takes the state before each token (native decoding of a model with plain attention).
        gather: ZeRO 3's partitioned weights are gathered for the whole batch.
        synced_gpus: they are not, and ranks must make their passes in step.
    """

    input_ids: Tensor
    attention_mask: Tensor
    uniform: Tensor | None
    settings: GenerationSettings
    kept: SampledStates | None = None
    gather: bool = False
    synced_gpus: bool = False

    def prompts(self) -> list[list[int]]:
        """The prompts without padding."""
        rows = zip(self.input_ids, self.attention_mask, strict=True)
        return [ids[mask.bool()].tolist() for ids, mask in rows]

    def seeds(self) -> list[int] | None:
        """A seed per response, from its first uniform number; None: nothing is drawn."""
        if self.uniform is None:
            return None
        return (self.uniform[:, 0].double() * 2**SEED_BITS).to(torch.int64).tolist()


def uniform_numbers(global_batch_size: int, length: int, seed: int, step: int) -> Tensor:
    """The step's uniform numbers in [0, 1), a row for each response of the global batch.

    Returns:
        [global_batch_size, length] float64 on CPU; a rank takes the rows of its responses.
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
        top_k: only the top_k tokens are possible (and what equals the last of them, as in
            transformers); None: all.
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

    def __init__(self, uniform: Tensor, prompt_length: int, settings: GenerationSettings) -> None:
        self.uniform, self.prompt_length, self.settings = uniform, prompt_length, settings

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        s = self.settings
        numbers = self.uniform[:, input_ids.shape[1] - self.prompt_length]
        possible = scores[:, : s.vocabulary_size]
        token = sample_by_inverse_cdf(possible, numbers, s.temperature, s.top_k)
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
    from trl.models.utils import add_hooks, remove_hooks

    with whole_parameters(engine.module.parameters()):
        remove_hooks(engine)
        try:
            yield model
        finally:
            add_hooks(engine)


@torch.no_grad()
def generate(model: Any, request: GenerationRequest, own_decoding: bool = True) -> list[list[int]]:
    """Sample one response per prompt (greedy where `request.uniform` is None).

    A model folder may bring a top_p or a repetition penalty of its own; they are not used: the
    policy whose divergence is measured is the plain tempered softmax.

    Args:
        model: an `AutoModelForCausalLM` in eval mode.
        own_decoding: use `dschat.rollout.decoding` where it can be; else always transformers.

    Returns:
        B lists of response ids, the end token included where the response ended by itself.

    Raises:
        ValueError: `request.kept` is given, and transformers would sample, which shows no states.
    """
    r, s = request, request.settings
    numbers = None if r.uniform is None else r.uniform.to(r.input_ids.device)
    if own_decoding and has_plain_cache(model) and not r.synced_gpus:

        def pick(logits: Tensor, rows: Tensor, step: int) -> Tensor:
            possible = logits[:, : s.vocabulary_size]
            if numbers is None:
                return possible.float().argmax(dim=-1)
            return sample_by_inverse_cdf(possible, numbers[rows, step], s.temperature, s.top_k)

        rows = r.input_ids, r.attention_mask
        return decode(model, *rows, pick, s.max_new_tokens, s.end_ids, r.kept, s.stops)
    if r.kept is not None:
        raise ValueError(f"{type(model).__name__} is sampled from by transformers: no states kept")
    processors = LogitsProcessorList()
    if numbers is not None:
        processors.append(_InverseCDF(numbers, r.input_ids.shape[1], s))
    elif s.vocabulary_size is not None:
        processors.append(_FirstTokens(s.vocabulary_size))
    return _generate_by_transformers(model, r, processors)


def _generate_by_transformers(
    model: Any, request: GenerationRequest, processors: LogitsProcessorList
) -> list[list[int]]:
    """Greedy search over what the processors leave possible."""
    s = request.settings
    config = GenerationConfig(
        max_new_tokens=s.max_new_tokens,
        do_sample=False,
        eos_token_id=list(s.end_ids),
        pad_token_id=s.pad_token_id,
        use_cache=True,
    )
    own_config = copy.deepcopy(model.generation_config)
    model.generation_config = config
    try:
        sequences = model.generate(
            input_ids=request.input_ids,
            attention_mask=request.attention_mask,
            logits_processor=processors,
            generation_config=config,
            stopping_criteria=_criteria(s, len(request.input_ids)),
            synced_gpus=request.synced_gpus,
        )
    finally:
        model.generation_config = own_config
    responses = sequences[:, request.input_ids.shape[1] :].tolist()
    return [s.until_end(response) for response in responses]


class _StopTexts(StoppingCriteria):
    """Ends a response whose last token completes a stop text; asked once after every token."""

    def __init__(self, stops: StopTexts, batch: int) -> None:
        self.watch = StopWatch(stops, batch)

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # type: ignore[override]
        found = self.watch.over(range(len(input_ids)), input_ids[:, -1].tolist())
        return torch.tensor(found, device=input_ids.device)


def _criteria(settings: GenerationSettings, batch: int) -> StoppingCriteriaList:
    stops = settings.stops
    return StoppingCriteriaList([] if stops is None else [_StopTexts(stops, batch)])
