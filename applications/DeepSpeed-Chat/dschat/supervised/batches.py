"""Which rows a rank trains on: every row of an epoch once, on however many ranks.

accelerate repeats rows of the epoch's start until all ranks have a whole micro-batch. Here the last
micro-batches are as short as they are, and a rank that has no row left passes a blank micro-batch
through the model, because a pass is collective under ZeRO 3; nothing of it counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch import Tensor
from torch.utils.data import Sampler

PAIRS = "pairs"
"""The number of pairs in a micro-batch that has no labels, under this name in it."""

IGNORED = -100


class RankBatches(Sampler[list[int]]):
    """A rank's micro-batches (row numbers) of an epoch; the last may be short, or empty.

    All ranks have equally many. The order of the rows depends on the seed and the epoch alone, and
    ranks take micro-batches of it in turn.

    Args:
        rows: of the training part. size: rows of a micro-batch.
    """

    def __init__(self, rows: int, size: int, seed: int, rank: int, ranks: int) -> None:
        self.size, self.rank, self.ranks = size, rank, ranks
        self.order = SeedableRandomSampler(range(rows), data_seed=seed)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; the Trainer calls it before each."""
        self.order.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.order)
        for i in range(len(self)):
            first = (i * self.ranks + self.rank) * self.size
            yield order[first : first + self.size]

    def __len__(self) -> int:
        return math.ceil(math.ceil(len(self.order) / self.size) / self.ranks)


def planned_rows(
    count: int,
    max_steps: int,
    epochs: float,
    micro_batch: int,
    accumulation: int,
    ranks: int,
    seed: int,
) -> list[int] | None:
    """Numbers of the rows that a run will train on; None: all of them.

    Args:
        count: rows of the training part. max_steps: optimiser steps; -1: as `epochs` say.
        micro_batch: rows of a rank's micro-batch. accumulation: micro-batches of a step.
    """
    batches = RankBatches(count, micro_batch, seed, 0, ranks)
    if max_steps < 0:
        max_steps = math.ceil(epochs * math.ceil(len(batches) / accumulation))
    seen = max_steps * accumulation * ranks * micro_batch
    return None if seen >= count else list(batches.order)[:seen]


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


def tokens_in(batch: dict[str, Tensor]) -> int:
    """Tokens of a micro-batch; 0 for a blank one."""
    if PAIRS in batch:
        counts = bool(batch[PAIRS] > 0)
    else:
        counts = bool((batch["labels"] != IGNORED).any())
    return int(batch["attention_mask"].sum()) * counts
