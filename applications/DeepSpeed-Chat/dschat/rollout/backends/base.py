"""What a generation backend is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dschat.data.ends import EndIds
from dschat.rollout.sampled_states import SampledStates

SEED_BITS = 53
"""Of a uniform number in float64: as many different seeds there are."""


@dataclass(frozen=True)
class GenerationRequest:
    """One response to each prompt, from the plain softmax at a temperature.

    Attributes:
        input_ids, attention_mask: [B, P] the prompts, left-padded, on the model's device.
        uniform: [B, max_new_tokens] numbers in [0, 1), a row per response, which depend on the
            run's seed, the generation batch and the response's place in it alone (see
            `uniform_numbers`); None: the likeliest token every time.
        max_new_tokens: a response stops at so many.
        temperature: of the softmax.
        ends: the tokens that end a response; one of them is its last token then.
        pad_token_id: what prompts are padded with.
        vocabulary_size: only the so many first tokens may come.
        kept: takes the state before each token (native, of a model whose attention is plain).
        gather: ZeRO 3's partitioned weights are gathered for the whole batch.
        synced_gpus: they are not, and ranks must make their passes in step.
    """

    input_ids: Tensor
    attention_mask: Tensor
    uniform: Tensor | None
    max_new_tokens: int
    temperature: float
    ends: EndIds
    pad_token_id: int
    vocabulary_size: int
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
        """Let go of what it holds; all ranks call it, after the last batch."""
        ...
