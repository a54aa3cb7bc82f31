"""What a generation backend offers."""

from __future__ import annotations

from typing import Any, Protocol

from dschat.rollout.generation import GenerationRequest


class GenerationBackend(Protocol):
    """Samples from the policy inside an engine.

    Attributes:
        name: as in `--generation_backend`.
        metrics: what the last batch showed of the backend itself, the same on all ranks.
    """

    name: str
    metrics: dict[str, float]

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
