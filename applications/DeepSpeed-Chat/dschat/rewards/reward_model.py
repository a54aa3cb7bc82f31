"""A sequence classifier with one output as a reward function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


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
        body = getattr(self.model, self.model.base_model_prefix)

        def states(ids: Tensor, mask: Tensor) -> Tensor:
            return body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state

        head, pad, size = self.model.score, self.pad_token_id, self.batch_size
        scores = scores_of(states, head, examples, pad, size, self.device)
        if self.resting_device is not None:
            self.model.to(self.resting_device)
        return scores


def scores_of(
    states: Callable[[Tensor, Tensor], Tensor],
    head: Callable[[Tensor], Tensor],
    examples: list[dict[str, Any]],
    pad_token_id: int,
    batch_size: int,
    device: torch.device,
) -> list[float]:
    """What the head says about the state at each sequence's last token.

    Args:
        states: (ids, attention mask), [B, L] both, padded on the right -> [B, L, H].
        head: [B, H] -> [B, 1].
        examples: with `prompt_ids` and `response_ids`.
        batch_size: sequences in one forward pass.
    """
    sequences = [e["prompt_ids"] + e["response_ids"] for e in examples]
    scores: list[float] = []
    for start in range(0, len(sequences), batch_size):
        part = sequences[start : start + batch_size]
        ids = torch.full((len(part), max(map(len, part))), pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(part):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        hidden = states(ids.to(device), mask.to(device))
        # The last real token by its length: looking for the pad id, as transformers does, finds
        # the wrong token where a model's pad and end token are one.
        last = torch.tensor([len(s) - 1 for s in part], device=device)
        at_end = hidden[torch.arange(len(part), device=device), last]
        scores += head(at_end).squeeze(-1).float().tolist()
    return scores
