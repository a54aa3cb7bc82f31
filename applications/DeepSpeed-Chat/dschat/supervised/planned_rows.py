"""Which rows a run of fewer steps than an epoch will see: only those are prepared."""

from __future__ import annotations

import math

from accelerate.data_loader import SeedableRandomSampler


def planned_rows(
    count: int,
    max_steps: int,
    epochs: float,
    micro_batch: int,
    accumulation: int,
    ranks: int,
    seed: int,
) -> list[int] | None:
    """Numbers of the rows that `transformers.Trainer` will train on; None: all of them.

    They are the first of the first epoch's order, which is accelerate's sampler's: it depends on
    the seed alone, and ranks take micro-batches of it in turn.

    Args:
        count: rows of the training part. max_steps: optimiser steps; -1: as `epochs` say.
        micro_batch: rows of a rank's micro-batch. accumulation: micro-batches of a step.
        seed: the Trainer's, which `torch.manual_seed` was called with last.
    """
    if max_steps < 0:
        rounds = math.ceil(math.ceil(count / micro_batch) / ranks)
        max_steps = math.ceil(epochs * math.ceil(rounds / accumulation))
    seen = max_steps * accumulation * ranks * micro_batch
    if seen >= count:
        return None
    return list(SeedableRandomSampler(range(count), data_seed=seed))[:seen]
