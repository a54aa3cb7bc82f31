"""The backends that run the trained model itself, batch by batch: the same tokens from both."""

from __future__ import annotations

from typing import Any

from dschat.rollout.backends.base import GenerationRequest
from dschat.rollout.generation import generate, whole_model


class NativeBackend:
    """This project's own decoding, and transformers where the model's attention is not plain."""

    name = "native"
    own_decoding = True

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
                request.end_token_id,
                request.pad_token_id,
                synced_gpus=request.synced_gpus,
                vocabulary_size=request.vocabulary_size,
                own_decoding=self.own_decoding,
            )

    def close(self) -> None:
        """Nothing is held."""


class TransformersBackend(NativeBackend):
    """transformers' `generate`, with every model."""

    name = "transformers"
    own_decoding = False
