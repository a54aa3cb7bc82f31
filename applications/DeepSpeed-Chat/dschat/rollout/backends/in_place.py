"""The backends that run the trained model itself, batch by batch: the same tokens from both."""

from __future__ import annotations

from typing import Any

from dschat.rollout.backends.base import GenerationRequest
from dschat.rollout.generation import generate, whole_model


class NativeBackend:
    """This project's own decoding, and transformers where the model's attention is not plain."""

    name = "native"
    own_decoding = True
    static_length: int | None = None

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def __call__(self, engine: Any, request: GenerationRequest) -> list[list[int]]:
        """See `GenerationBackend`."""
        with whole_model(engine, request.gather) as model:
            return generate(
                model,
                request.input_ids,
                request.attention_mask,
                request.uniform,
                request.max_new_tokens,
                request.temperature,
                request.ends,
                request.pad_token_id,
                synced_gpus=request.synced_gpus,
                vocabulary_size=request.vocabulary_size,
                kept=request.kept,
                own_decoding=self.own_decoding,
                static_length=self.static_length,
            )

    def close(self) -> None:
        """Nothing is held."""


class TransformersBackend(NativeBackend):
    """transformers' `generate`, with every model."""

    name = "transformers"
    own_decoding = False


class StaticBackend(TransformersBackend):
    """transformers' `generate` with keys and values of one size in all batches.

    On a GPU transformers compiles the step over such a cache, into CUDA graphs by its default,
    which spares what it costs to start a step's many small kernels. What is compiled reads the
    weights where they lie: an optimiser's step needs no new compilation.

    Args:
        max_length: of a prompt and its response together, in tokens.
    """

    name = "static"

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.static_length = max_length
