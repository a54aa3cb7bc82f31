"""What a generation backend offers."""

from __future__ import annotations

from typing import Any, Protocol

from dschat.rollout.generation import GenerationRequest


class GenerationBackend(Protocol):
    """Samples from the policy inside an engine.

    Attributes:
        name: as in `--generation_backend`.
        logprobs: of the last batch, per response log mu of its tokens, where the backend draws
            from a distribution mu of its own; None where the policy itself samples, or greedily.
    """

    name: str
    logprobs: list[list[float]] | None = None

    def __call__(self, engine: Any, request: GenerationRequest) -> list[list[int]]:
        """B lists of response ids, the end token included where the response ended by itself.

        All ranks call it, each with its own rows.

        Args:
            engine: the actor's DeepSpeed engine, in eval mode.

        Raises:
            UserError: the backend cannot be used with this model or these settings.
        """
        ...

    def close(self) -> None:
        """Free what it holds; all ranks call it, after the last batch."""
        ...
