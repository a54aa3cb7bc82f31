"""Rewards of responses, as rows of a stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dschat.data.prompts import PromptExample
from dschat.evaluation.respond.partial import Rows
from dschat.evaluation.respond.stages import Batch
from dschat.rewards import check_rewards
from dschat.rewards.text_reward import TextReward


def texts_of_responses(
    rewards: TextReward, tokenizer: Any, prompts: Sequence[PromptExample], responses: Rows
) -> list[list[int]]:
    """What the reward model reads for each response, as its own token ids.

    Where it has the policy's tokenizer these are the very tokens that were sampled; else the texts
    are written in its own way.
    """
    if rewards.reads_tokens(tokenizer, prompts):
        return [p.ids + responses[i]["response_ids"] for i, p in enumerate(prompts)]
    return [rewards.encode(p.conversation, responses[i]["response"]) for i, p in enumerate(prompts)]


@contextmanager
def scoring(rewards: TextReward, texts: Sequence[Sequence[list[int]]]) -> Iterator[Batch]:
    """Rows with `scores`, one for each of an item's texts (token ids)."""
    with rewards.loaded() as score:

        def batch(indices: list[int]) -> list[dict[str, Any]]:
            flat = [ids for i in indices for ids in texts[i]]
            prompts = [rewards.tokenizer.decode(ids) for ids in flat]
            scores = iter(check_rewards(score(flat), prompts, rewards.path))
            return [{"index": i, "scores": [next(scores) for _ in texts[i]]} for i in indices]

        yield batch
