"""Every row of an epoch once, on however many ranks, and as many micro-batches on each.

accelerate repeats rows of the epoch's start until all ranks have a whole micro-batch. Here the last
round of micro-batches is as short as it is; a rank that has no row left passes a blank
micro-batch through the model, because a pass is collective under ZeRO 3, and nothing of it counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler

PAIRS = "pairs"
"""The number of pairs in a micro-batch that has no labels, under this name in it."""

IGNORED = -100


class WholeRounds(BatchSampler):
    """Another sampler's micro-batches, and empty ones until their number is a multiple of the
    ranks'.
    """

    def __init__(self, batches: BatchSampler, ranks: int) -> None:
        self.batches, self.ranks = batches, ranks
        self.sampler, self.drop_last = batches.sampler, False

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches
        yield from ([] for _ in range(len(self) - len(self.batches)))

    def __len__(self) -> int:
        return -(-len(self.batches) // self.ranks) * self.ranks


def share_whole_rounds(loader: Any, ranks: int) -> None:
    """Make accelerate's loader share micro-batches out as this module says."""
    if ranks == 1:
        return
    shard = loader.batch_sampler
    shard.batch_sampler = WholeRounds(shard.batch_sampler, ranks)
    shard.batch_size = None  # micro-batches of any length: accelerate fills none up


class BlankCollator:
    """A collator that makes a blank micro-batch of no rows.

    Args:
        collate: list of rows -> tensors.
        row: any of them: the blank micro-batch's text.
    """

    def __init__(self, collate: Callable[[list[Any]], dict[str, Any]], row: dict[str, Any]) -> None:
        self.collate, self.row = collate, row

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        """A list of rows -> tensors; with labels, or with the number of `pairs`."""
        batch = self.collate(rows or [self.row])
        if "labels" not in batch:
            return {**batch, PAIRS: torch.tensor(len(rows))}
        if not rows:
            batch["labels"] = torch.full_like(batch["labels"], IGNORED)
        return batch
