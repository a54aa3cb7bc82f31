"""The critic with its adapters off as the reward model that it started from."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from dschat.models.policy import ValueModel
from dschat.models.score_reading import at_last_tokens
from dschat.rewards.base import RewardFunction
from dschat.rewards.reward_model import ReadsText, RewardModel, in_batches, what_is_read
from dschat.runtime import distributed


def frozen_head(classifier: Any) -> torch.nn.Module:
    """A copy of a reward model's head, to be taken before the critic's is trained."""
    return copy.deepcopy(classifier.score).eval().requires_grad_(False)


class CriticWithoutAdapters(RewardFunction):
    """Scores as `RewardModel` with the model that the critic started from, to the bit.

    No second model is in memory: the critic's base weights are frozen, its adapters are switched
    off as long as this lasts, and of its head, which is trained, there is a copy. Under ZeRO 3 a
    call is collective, as the critic's own passes are: all ranks score as many responses.

    Args:
        critic: around a `PeftModel` of which only adapters and head are trained; not moved.
        head: see `frozen_head`.
        pad_token_id, batch_size, device, texts: as of `RewardModel`.
    """

    name = RewardModel.name

    def __init__(
        self,
        critic: ValueModel,
        head: torch.nn.Module,
        pad_token_id: int,
        batch_size: int,
        device: torch.device,
        texts: ReadsText | None = None,
    ) -> None:
        self.critic, self.head = critic, head.to(device)
        self.pad_token_id, self.batch_size, self.device = pad_token_id, batch_size, device
        self.texts = texts

    @property
    def collective(self) -> bool:
        """Whether a rank's call waits for all others'."""
        partitioned = any(hasattr(p, "ds_id") for p in self.critic.parameters())
        return partitioned and distributed.world_size() > 1

    @torch.no_grad()
    def __call__(
        self, prompts: list[str], responses: list[str], examples: list[dict[str, Any]]
    ) -> list[float]:
        """One score per response; see `RewardModel`."""
        read = what_is_read(self.texts, responses, examples)
        was_training = self.critic.training
        self.critic.eval()
        try:
            with self.critic.model.disable_adapter():
                return in_batches(
                    self._score, read, self.pad_token_id, self.batch_size, self.device
                )
        finally:
            self.critic.train(was_training)

    def _score(self, ids: Tensor, mask: Tensor) -> Tensor:
        skipped = getattr(self.critic.model.get_base_model(), "skipped_token", None)
        return self.head(at_last_tokens(self.critic(ids, mask), ids, mask, skipped))
