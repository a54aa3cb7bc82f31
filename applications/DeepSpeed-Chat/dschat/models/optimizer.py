"""AdamW as DeepSpeed-Chat sets it up, and its schedule: decay, adapters' own learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from dschat.models.lora import is_lora, is_new_rows

BETAS = (0.9, 0.95)


def parameter_groups(
    model: torch.nn.Module,
    learning_rate: float,
    weight_decay: float,
    lora_learning_rate: float | None = None,
) -> list[dict[str, Any]]:
    """Trainable parameters in up to four groups: base or LoRA, decayed or not.

    Biases and norms (everything with fewer than two dimensions) have no weight decay. Nor have
    weights of which new tokens' rows are trained (`train_rows`): the other rows stay as they are.

    Args:
        model: with or without adapters, partitioned by ZeRO 3 or not.
        learning_rate: of the base weights.
        weight_decay: of matrices.
        lora_learning_rate: of the adapters and of new tokens' rows; None: `learning_rate`.
    """
    members: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO 3 empties the shape
            adapts, new_rows = is_lora(name), is_new_rows(parameter)
            group = (adapts or new_rows, len(shape) >= 2 and not new_rows)
            members.setdefault(group, []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            "lr": lora_learning_rate if lora and lora_learning_rate else learning_rate,
        }
        for (lora, decays), parameters in members.items()
    ]


def adamw(
    model: torch.nn.Module,
    learning_rate: float,
    weight_decay: float,
    lora_learning_rate: float | None = None,
) -> torch.optim.AdamW:
    """torch's AdamW over `parameter_groups` (DeepSpeed's own would be compiled at first use).

    Fused: one pass over weights, gradients and moments, without temporaries of their size.
    """
    groups = parameter_groups(model, learning_rate, weight_decay, lora_learning_rate)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, fused=True)


def rates_text(model: torch.nn.Module, optimizer: torch.optim.Optimizer, what: str) -> str:
    """Which parameters learn at which highest rate, for the line at the start of a run.

    Args:
        what: whose parameters these are, the beginning of the sentence.
    """
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    counts: dict[tuple[str, float | None], int] = {}
    for name, parameter in model.named_parameters():
        kind = "adapter" if is_lora(name) else "other"
        key = kind, rates.get(id(parameter))
        shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO 3 empties the shape
        size = math.prod(shape)
        rows = getattr(parameter, "trained_rows", None)
        if rows is not None:  # the others stay as they are
            frozen, trained = (kind, None), size // shape[0] * len(rows)
            counts[frozen] = counts.get(frozen, 0) + size - trained
            size = trained
        counts[key] = counts.get(key, 0) + size
    adapted = any(kind == "adapter" for kind, _ in counts)
    parts = [
        f"{count:,} {kind + ' ' if adapted else ''}parameters "
        + ("are frozen" if rate is None else f"learn at {rate:g}")
        for (kind, rate), count in counts.items()
    ]
    return f"{what}: {'; '.join(parts)}."


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
