"""The course of a learning rate, as DeepSpeed engines take it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch


def schedule(
    name: str, warmup_steps: int, warmup_ratio: float, total_steps: int
) -> Callable[[torch.optim.Optimizer], Any]:
    """A function that gives an optimiser its learning-rate schedule (transformers' names).

    Args:
        warmup_steps: optimiser steps of linear warm-up; 0 takes `warmup_ratio` of all.
        total_steps: optimiser steps of the whole run.
    """
    from transformers import get_scheduler

    warmup = warmup_steps or math.ceil(warmup_ratio * total_steps)
    return lambda optimizer: get_scheduler(
        name, optimizer, num_warmup_steps=warmup, num_training_steps=max(1, total_steps)
    )
