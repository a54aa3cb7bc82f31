"""Optimiser steps that do not depend on how their pairs are cut into micro-batches and ranks.

A pair's loss is divided by the number of pairs in the optimiser step, over all its micro-batches
and all ranks: 7 pairs as 2, 2, 2 and 1 are a batch of 7. (The Trainer's mean of means gives the
last one twice the weight.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dschat.runtime.distributed import sum_over_ranks, world_size
from dschat.supervised.fine_tuning import FineTuningTrainer
from dschat.supervised.whole_rounds import PAIRS


class PairTrainer(FineTuningTrainer):
    """Mixed into TRL's trainers of preference pairs, before their class."""

    # The Trainer shall not divide by the number of micro-batches as well.
    loss_is_scaled_for_ga: Any = True

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> int:
        """The Trainer asks for this once per optimiser step: its pairs, over all ranks."""
        mine = sum(int(batch[PAIRS]) for batch in batch_samples)
        (total,) = sum_over_ranks([mine], device)
        return int(total)

    def part_of_step(self, losses: Tensor, step_pairs: int) -> Tensor:
        """A micro-batch's part of the step's mean loss, to be summed over micro-batches.

        Args:
            losses: [n] of this rank's pairs. step_pairs: pairs of the optimiser step.
        """
        # DeepSpeed takes the mean over ranks.
        return losses.sum() * (world_size() / step_pairs)

    def log_sums(self, sums: dict[str, float], step_pairs: int, device: torch.device) -> None:
        """Note statistics of a micro-batch; what is logged is their mean over the step's pairs.

        Args:
            sums: by name, over this rank's pairs; collective.
        """
        trainer: Any = self
        # TRL logs the mean over micro-batches of what is noted here.
        scale = trainer.current_gradient_accumulation_steps / step_pairs
        totals = sum_over_ranks(list(sums.values()), device)
        for name, total in zip(sums, totals, strict=True):
            trainer._metrics["train"][name].append(total * scale)
