"""Prompts for RL: token ids, batches that do not depend on the number of ranks, left padding."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dschat.data.rows import decode_example
from dschat.data.text import Prompt, conversation_text, prompt_ids
from dschat.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromptExample:
    """One prompt: its token ids, its text, and the raw fields a reward function needs.

    `samples` are responses of the references to it, where the run learns from some (token ids), and
    `sample_rows` the numbers of the rows of random numbers that they were drawn with;
    `conversation` is the prompt as it is in the data, for those with another chat template.
    """

    ids: list[int]
    text: str
    example: dict[str, Any]
    samples: tuple[list[int], ...] = ()
    sample_rows: tuple[int, ...] = ()
    conversation: Prompt = ""


def build_prompts(
    dataset: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    max_prompt_seq_len: int,
    num_padding_at_beginning: int = 0,
    flag: str = "--max_prompt_seq_len",
) -> tuple[list[PromptExample], int]:
    """Tokenise the `prompt` column; prompts longer than `max_prompt_seq_len` tokens are skipped.

    Args:
        flag: gave `max_prompt_seq_len`, for messages.

    Returns:
        The prompts in the data set's order, and how many were skipped (logged as well).

    Raises:
        UserError: no prompt is short enough, or the chat template is missing.
    """
    rows = list(dataset)
    encoded = prompt_ids(tokenizer, [row["prompt"] for row in rows], num_padding_at_beginning)
    prompts = [
        PromptExample(
            ids,
            conversation_text(row["prompt"], tokenizer),
            decode_example(row.get("example")),
            conversation=row["prompt"],
        )
        for row, ids in zip(rows, encoded, strict=True)
        if len(ids) <= max_prompt_seq_len
    ]
    n_too_long = len(rows) - len(prompts)
    if not prompts:
        lengths = [len(ids) for ids in encoded] or [0]
        raise UserError(
            f"None of the {len(rows)} prompts has {max_prompt_seq_len} tokens or fewer: the "
            f"shortest has {min(lengths)}, the median {statistics.median(lengths):.0f}. Raise "
            f"{flag} or give shorter prompts."
        )
    if n_too_long:
        logger.warning(
            "%d of %d prompts are longer than %s %d and are skipped",
            n_too_long,
            len(rows),
            flag,
            max_prompt_seq_len,
        )
    return prompts, n_too_long


def collate_prompts(examples: Sequence[PromptExample], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Pad prompts on the left, so that every response starts at the same position.

    Returns:
        input_ids [B, P] and attention_mask [B, P] (1 on the prompt's own tokens), both int64;
        P is the longest prompt's length.
    """
    import torch

    length = max(len(example.ids) for example in examples)
    input_ids = torch.full((len(examples), length), pad_token_id, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for i, example in enumerate(examples):
        start = length - len(example.ids)
        input_ids[i, start:] = torch.tensor(example.ids, dtype=torch.int64)
        attention_mask[i, start:] = 1
    return input_ids, attention_mask


def prompt_batches(n: int, global_batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Shuffle `n` prompts and cut them into global batches; the last, partial one is dropped.

    The order depends on `seed` and `epoch` alone, not on the number of ranks.

    Raises:
        UserError: there is not even one full batch.
    """
    if n < global_batch_size:
        raise UserError(
            f"There are {n} prompts and a global batch takes {global_batch_size} (ranks x "
            "--per_device_generation_batch_size x --generation_batches or "
            "--gradient_accumulation_steps). Lower one of these flags, use fewer ranks, raise "
            "--max_prompt_seq_len if prompts were skipped, or give more data."
        )
    order = np.random.default_rng([seed, epoch]).permutation(n).tolist()
    full = n - n % global_batch_size
    return [order[i : i + global_batch_size] for i in range(0, full, global_batch_size)]


def rank_share(n: int, rank: int, world_size: int, micro_batch: int) -> list[int]:
    """Numbers of a rank's items among the n of a global batch, in runs of `micro_batch`.

    Every micro_batch x world_size consecutive items are a global micro-batch, of which rank r takes
    the r-th run: what lies together, as the responses to one prompt do, stays together. The j-th
    micro-batches of all ranks are the j-th global micro-batch: the same items meet in one update
    whatever the number of ranks, as long as micro_batch x world_size is the same.

    Raises:
        ValueError: the batch is not cut into whole global micro-batches.
    """
    together = micro_batch * world_size
    if n % together:
        raise ValueError(
            f"a global batch of {n} items is not cut into whole micro-batches of {micro_batch} on "
            f"each of {world_size} ranks"
        )
    starts = range(rank * micro_batch, n, together)
    return [start + i for start in starts for i in range(micro_batch)]
