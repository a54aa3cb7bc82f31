"""transformers' continuous batching: rows come and go in a batch of tokens, over a paged cache.

It draws with `multinomial` from the process's one generator, so that a response would depend on
which rows it met. Here a logits processor leaves one token possible instead: the one that the
row's own uniform number picks. So the tokens are those of the native backend.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from dschat.data.ends import end_ids
from dschat.errors import UserError
from dschat.models.key_values import plain_model
from dschat.rollout.backends.base import GenerationRequest
from dschat.rollout.generation import sample_by_inverse_cdf, whole_model

PAGE_TOKENS = 32
"""Tokens in a page of the cache; whole pages of equal prompts are shared."""

BATCH_TOKENS = 512
"""Tokens in a pass, unless there are more rows. The mask is so many times the whole cache."""

try:
    from transformers.generation.configuration_utils import ContinuousBatchingConfig
    from transformers.generation.continuous_batching.cb_logits_processors import (
        ContinuousBatchingLogitsProcessor,
        ContinuousBatchingLogitsProcessorList,
    )
except ImportError as error:
    raise UserError(
        f"--generation_backend continuous needs transformers 5.23 or one that is like it there "
        f"({error}). Install it, or use --generation_backend native."
    ) from error


class _PickTokens(ContinuousBatchingLogitsProcessor):
    """Leaves one token possible per row: the sampled one, or the likeliest."""

    supported_kwargs: dict[str, type] = {"row": int}  # noqa: RUF012 (transformers' own declaration)
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, request: GenerationRequest, prompt_lengths: Sequence[int]) -> None:
        self.request = request
        self.prompt_lengths = prompt_lengths
        self.numbers: Tensor | None = None
        if request.uniform is not None:
            self.numbers = request.uniform.to(request.input_ids.device).flatten()

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        """What rows without a number of their own are given (there are none but padding)."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[Any]) -> Tensor:
        """The place in `numbers` of each row's next token."""
        limit = self.request.max_new_tokens
        places = []
        for future in requests_with_new_token:
            state = future.state
            row = state.logit_processor_kwargs["row"]
            # A row that had to leave for want of memory comes back with its response so far as
            # a part of its prompt.
            step = len(state.initial_tokens) + state.generated_len() - self.prompt_lengths[row]
            places.append(row * limit + step)
        return torch.tensor(places, dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """[b, V] logits -> 0 at the chosen token, minus infinity elsewhere."""
        possible = scores[:, : self.request.vocabulary_size]
        if self.numbers is None:
            tokens = possible.argmax(dim=-1)
        else:
            numbers = self.numbers[tensor_arg[: len(scores)].long()]
            tokens = sample_by_inverse_cdf(possible, numbers, self.request.temperature)
        chosen = torch.full_like(scores, -torch.inf)
        return chosen.scatter_(1, tokens.unsqueeze(1), 0.0)


class ContinuousBackend:
    """See the module."""

    name = "continuous"

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def __call__(self, engine: Any, request: GenerationRequest) -> list[list[int]]:
        """See `GenerationBackend`."""
        with whole_model(engine, request.gather) as model, _silent():
            try:
                return _responses(plain_model(model), request)
            except (ValueError, RuntimeError, AttributeError) as error:
                raise UserError(
                    f"--generation_backend continuous: transformers' continuous batching cannot be "
                    f"used with this {type(plain_model(model)).__name__} ({error}). Use "
                    "--generation_backend native."
                ) from error

    def close(self) -> None:
        """Nothing is held between batches."""


def _responses(model: Any, request: GenerationRequest) -> list[list[int]]:
    prompts = request.prompts()
    manager = model.init_continuous_batching(
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=request.max_new_tokens,
            eos_token_id=list(end_ids(request.ends)),
            pad_token_id=request.pad_token_id,
        ),
        continuous_batching_config=_settings(prompts, request.max_new_tokens),
    )
    processor = _PickTokens(request, [len(prompt) for prompt in prompts])
    manager.logit_processor = ContinuousBatchingLogitsProcessorList(
        LogitsProcessorList([processor])
    )
    manager.logit_processor.tensors_required = 1
    # All are in the queue before the loop starts: passes do not depend on the threads' timing.
    for row, prompt in enumerate(prompts):
        manager.add_request(prompt, request_id=str(row), row=row)
    found: dict[str, list[int]] = {}
    manager.start()
    try:
        while len(found) < len(prompts):
            output = manager.get_result(timeout=1)
            if output is None and not manager.is_running():
                raise RuntimeError("its thread has stopped")
            if output is not None and output.error is not None:
                raise RuntimeError(output.error)
            if output is not None:
                found[output.request_id] = output.generated_tokens
    finally:
        manager.stop(block=True)
        manager.destroy()
    return [found[str(row)] for row in range(len(prompts))]


def _settings(prompts: Sequence[Sequence[int]], max_new_tokens: int) -> Any:
    """Room for all rows at once, and no more."""
    pages = sum(-(-(len(p) + max_new_tokens) // PAGE_TOKENS) + 1 for p in prompts)
    return ContinuousBatchingConfig(
        page_size=PAGE_TOKENS,
        num_blocks=pages,
        max_batch_tokens=max(len(prompts), BATCH_TOKENS),
        max_requests_per_batch=len(prompts),
        # Its tokens would be a step behind when the next number is chosen.
        use_async_batching=False,
        # The same attention as in scoring; and nothing is looked for on a hub.
        auto_switch_to_flash=False,
    )


@contextmanager
def _silent() -> Iterator[None]:
    """The library logs with a traceback what it also returns as an error."""
    logger = logging.getLogger("ContinuousBatchingLogger")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
