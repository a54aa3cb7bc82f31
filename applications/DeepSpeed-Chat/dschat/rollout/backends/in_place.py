"""The backends that run the trained model itself, and the choice of a backend by its name.

Both take the same tokens.
"""

from __future__ import annotations

from typing import Any

from dschat.errors import UserError
from dschat.rollout.backends.base import GenerationBackend
from dschat.rollout.backends.vllm_engine import VLLMBackend
from dschat.rollout.generation import GenerationRequest, generate, whole_model
from dschat.settings.rollout.backends import BACKENDS


class NativeBackend:
    """This project's own decoding, and transformers where the model's attention is not plain."""

    name = "native"
    own_decoding = True
    logprobs: list[list[float]] | None = None

    def __call__(self, engine: Any, request: GenerationRequest) -> list[list[int]]:
        """See `GenerationBackend`."""
        with whole_model(engine, request.gather) as model:
            return generate(model, request, self.own_decoding)

    def close(self) -> None:
        """Nothing is held."""


class TransformersBackend(NativeBackend):
    """transformers' `generate`, with every model."""

    name = "transformers"
    own_decoding = False


def make_backend(
    name: str,
    max_length: int,
    gpu_memory_utilization: float,
    tensor_parallel_size: int = 1,
    keep_memory: bool = False,
) -> GenerationBackend:
    """The backend of that name.

    Args:
        max_length: of a prompt and its response together, in tokens (vllm).
        gpu_memory_utilization: share of the device's memory for vllm.
        tensor_parallel_size, keep_memory: of vllm, see `VLLMBackend`.

    Raises:
        UserError: there is no such backend, or its package is not installed.
    """
    if name == "native":
        return NativeBackend()
    if name == "transformers":
        return TransformersBackend()
    if name == "vllm":
        return VLLMBackend(max_length, gpu_memory_utilization, tensor_parallel_size, keep_memory)
    raise UserError(
        f"There is no generation backend {name!r}; expected one of {', '.join(BACKENDS)}."
    )
