"""From the name of a generation backend to the backend."""

from __future__ import annotations

from dschat.errors import UserError
from dschat.rollout.backends.base import GenerationBackend
from dschat.settings.generation import BACKENDS


def make_backend(name: str, max_length: int, gpu_memory_utilization: float) -> GenerationBackend:
    """The backend called so; what it needs beside this package is imported only now.

    Args:
        max_length: of a prompt and its response together, in tokens (static, vllm).
        gpu_memory_utilization: share of the device's memory for vllm.

    Raises:
        UserError: there is no such backend, or its package is not installed.
    """
    if name == "native":
        from dschat.rollout.backends.in_place import NativeBackend

        return NativeBackend()
    if name == "transformers":
        from dschat.rollout.backends.in_place import TransformersBackend

        return TransformersBackend()
    if name == "static":
        from dschat.rollout.backends.in_place import StaticBackend

        return StaticBackend(max_length)
    if name == "continuous":
        from dschat.rollout.backends.continuous import ContinuousBackend

        return ContinuousBackend()
    if name == "vllm":
        from dschat.rollout.backends.vllm_engine import VLLMBackend

        return VLLMBackend(max_length, gpu_memory_utilization)
    raise UserError(
        f"There is no generation backend {name!r}; expected one of {', '.join(BACKENDS)}."
    )
