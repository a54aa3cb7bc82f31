"""A sequence classifier with one output as a reward function."""

from __future__ import annotations

from typing import Any

import torch


class RewardModel:
    """Scores prompt + response by an `AutoModelForSequenceClassification(num_labels=1)`.

    The token ids that the trainer sampled are scored as they are: decoding and tokenising again
    could give other tokens than the policy produced.

    Args:
        model: the classifier, frozen, on its device; its config's `pad_token_id` is set.
        pad_token_id: fills up shorter rows.
        batch_size: sequences in one forward pass.
        resting_device: where the model waits between calls (CPU, to leave the GPU's memory to
            others); None leaves it on its device.
    """

    name = "reward model"

    def __init__(
        self,
        model: Any,
        pad_token_id: int,
        batch_size: int,
        device: torch.device,
        resting_device: torch.device | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.pad_token_id = pad_token_id
        self.batch_size = batch_size
        self.device = device
        self.resting_device = resting_device
        self.model.to(resting_device or device)

    @torch.no_grad()
    def __call__(
        self, prompts: list[str], responses: list[str], examples: list[dict[str, Any]]
    ) -> list[float]:
        """One score per response; reads `prompt_ids` and `response_ids` of the examples."""
        if self.resting_device is not None:
            self.model.to(self.device)
        sequences = [e["prompt_ids"] + e["response_ids"] for e in examples]
        scores: list[float] = []
        for start in range(0, len(sequences), self.batch_size):
            scores += self._score(sequences[start : start + self.batch_size])
        if self.resting_device is not None:
            self.model.to(self.resting_device)
        return scores

    def _score(self, sequences: list[list[int]]) -> list[float]:
        longest = max(len(s) for s in sequences)
        ids = torch.full((len(sequences), longest), self.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        hidden = getattr(self.model, self.model.base_model_prefix)(
            input_ids=ids, attention_mask=mask, use_cache=False
        ).last_hidden_state
        # The last real token by its length: looking for the pad id, as transformers does, finds
        # the wrong token where a model's pad and end token are one.
        last = torch.tensor([len(s) - 1 for s in sequences], device=self.device)
        states = hidden[torch.arange(len(sequences), device=self.device), last]
        return self.model.score(states).squeeze(-1).float().tolist()
