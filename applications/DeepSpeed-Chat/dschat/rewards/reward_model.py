"""A sequence classifier with one output as a reward function."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from dschat.data.text import Prompt
from dschat.models.score_reading import at_last_tokens, has_score_head
from dschat.rewards.base import RewardFunction

logger = logging.getLogger(__name__)


class ReadsText(Protocol):
    """Writes conversations for a reward model; see `dschat.rewards.text_reward.TextReward`."""

    def encode(self, prompt: Prompt, response: str) -> list[int]: ...


class RewardModel(RewardFunction):
    """Scores prompt + response by an `AutoModelForSequenceClassification(num_labels=1)`.

    The token ids that the trainer sampled are scored as they are: decoding and tokenising again
    could give other tokens than the policy produced. A model with another tokenizer reads texts.

    Args:
        model: the classifier, frozen, on its device; its config's `pad_token_id` is set.
        pad_token_id: fills up shorter rows.
        batch_size: sequences in one forward pass.
        resting_device: where the model waits between calls (CPU, to leave the GPU's memory to
            others); None leaves it on its device.
        texts: writes the conversations; None: the sampled tokens are read.
    """

    name = "reward model"

    def __init__(
        self,
        model: Any,
        pad_token_id: int,
        batch_size: int,
        device: torch.device,
        resting_device: torch.device | None = None,
        texts: ReadsText | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.pad_token_id = pad_token_id
        self.batch_size = batch_size
        self.device = device
        self.resting_device = resting_device
        self.texts = texts
        self.limit = getattr(model.config, "max_position_embeddings", None) or 2**31
        self.cut = 0  # texts that were longer than the model's context
        self.model.to(resting_device or device)

    def __call__(
        self, prompts: list[str], responses: list[str], examples: list[dict[str, Any]]
    ) -> list[float]:
        """One score per response.

        Reads `prompt_ids` and `response_ids` of the examples, or, as text, their `conversation`.
        """
        whole = self.cut == 0
        scores = self.scores(what_is_read(self.texts, responses, examples))
        if whole and self.cut:
            logger.warning(
                "a prompt with its response is longer than the reward model's context: only its "
                "last %d tokens are scored (said once)",
                self.limit,
            )
        return scores

    @torch.no_grad()
    def scores(self, sequences: Sequence[list[int]]) -> list[float]:
        """One score per sequence of token ids; see `dschat.models.score_reading` for where.

        Encoders are asked for their own score, often at the first token. Of sequences longer than
        the model's context the last tokens are scored.
        """
        self.cut += sum(len(ids) > self.limit for ids in sequences)
        sequences = [ids[-self.limit :] for ids in sequences]
        if self.resting_device is not None:
            self.model.to(self.device)
        score = self._at_the_end if has_score_head(self.model) else self._pooled
        scores = in_batches(score, sequences, self.pad_token_id, self.batch_size, self.device)
        if self.resting_device is not None:
            self.model.to(self.resting_device)
        return scores

    def _at_the_end(self, ids: Tensor, mask: Tensor) -> Tensor:
        body = getattr(self.model, self.model.base_model_prefix)
        hidden = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        skipped = getattr(self.model, "skipped_token", None)
        return self.model.score(at_last_tokens(hidden, ids, mask, skipped))

    def _pooled(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.model(input_ids=ids, attention_mask=mask).logits


def what_is_read(
    texts: ReadsText | None, responses: list[str], examples: list[dict[str, Any]]
) -> list[list[int]]:
    """The token ids that a reward model scores: those that were sampled, or its own of the text."""
    if texts is None:
        return [e["prompt_ids"] + e["response_ids"] for e in examples]
    return [texts.encode(e["conversation"], r) for e, r in zip(examples, responses, strict=True)]


def in_batches(
    score: Callable[[Tensor, Tensor], Tensor],
    sequences: Sequence[list[int]],
    pad_token_id: int,
    batch_size: int,
    device: torch.device,
) -> list[float]:
    """The score of each sequence.

    Args:
        score: (ids, attention mask), [B, L] both, padded on the right -> [B, 1].
        batch_size: sequences in one forward pass.
    """
    scores: list[float] = []
    for start in range(0, len(sequences), batch_size):
        part = sequences[start : start + batch_size]
        ids = torch.full((len(part), max(map(len, part))), pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(part):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        scores += score(ids.to(device), mask.to(device)).squeeze(-1).float().tolist()
    return scores
