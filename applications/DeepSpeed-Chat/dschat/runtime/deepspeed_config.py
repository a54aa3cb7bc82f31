"""DeepSpeed's settings, in one place for the three steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from dschat.errors import MAX_DEPTH, UserError, too_deep

# What the scripts' own flags decide; a --deepspeed_config file may not say it a second time.
OWNED_BY_FLAGS = {
    "train_batch_size": "the script's batch size and --gradient_accumulation_steps",
    "train_micro_batch_size_per_gpu": "the script's batch size",
    "gradient_accumulation_steps": "--gradient_accumulation_steps",
    "optimizer": "the script's learning rate and weight decay",
    "scheduler": "--lr_scheduler_type and --warmup_ratio",
    "bf16": "the script's precision flags",
    "fp16": "the script's precision flags",
    "data_types": "the script's precision flags",
}


def deepspeed_settings(
    stage: int,
    dtype: torch.dtype,
    micro_batch_size: int,
    accumulation_steps: int,
    world_size: int,
    offload: bool = False,
    overrides: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The dictionary for `deepspeed.initialize` or `TrainingArguments(deepspeed=...)`.

    Args:
        stage: ZeRO stage 0, 1, 2 or 3; with bf16 and fp16, 0 is run as 1.
        dtype: float32, bfloat16 or float16 (with dynamic loss scaling).
        micro_batch_size: per rank.
        accumulation_steps: micro-batches per optimiser step.
        world_size: number of ranks.
        offload: keep the optimiser's state (and under stage 3 the parameters) in CPU memory.
        overrides: top-level keys merged over the result (see `read_overrides`).

    Raises:
        UserError: an unknown stage, or offload at stage 0.
    """
    if stage not in (0, 1, 2, 3):
        raise UserError(f"ZeRO stage {stage} does not exist; expected 0, 1, 2 or 3.")
    if offload and stage == 0:
        raise UserError("--offload needs a ZeRO stage of 1 or more; stage 0 offloads nothing.")
    if stage == 0 and dtype != torch.float32:
        # At stage 0 DeepSpeed's half-precision optimiser takes a step on zero gradients at set-up
        # and ends elsewhere than the other stages (docs/log.md); stage 1 on any number of ranks
        # does the same work with fp32 master weights.
        stage = 1
    zero: dict[str, Any] = {"stage": stage}
    if offload:
        zero["offload_optimizer"] = {"device": "cpu"}
        if stage == 3:
            zero["offload_param"] = {"device": "cpu"}
    if stage == 3:
        zero |= {
            # Without this a stage-3 model cannot be saved as a plain checkpoint.
            "stage3_gather_16bit_weights_on_model_save": True,
            "stage3_param_persistence_threshold": 10_000,
        }
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": accumulation_steps,
        "train_batch_size": micro_batch_size * accumulation_steps * world_size,
        "zero_optimization": zero,
        # DeepSpeed clips at 1.0 even when nothing is said: say it.
        "gradient_clipping": 1.0,
        # Our optimiser is torch's AdamW, also where its state is offloaded.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31 - 1,
        "wall_clock_breakdown": False,
    }
    if dtype == torch.bfloat16:
        settings["bf16"] = {"enabled": True}
    elif dtype == torch.float16:
        settings["fp16"] = {"enabled": True, "loss_scale_window": 100}
    for key, value in (overrides or {}).items():
        if isinstance(value, dict) and isinstance(settings.get(key), dict):
            settings[key] = {**settings[key], **value}
        else:
            settings[key] = value
    return settings


def read_overrides(path: str | None) -> dict[str, Any]:
    """The user's `--deepspeed_config` JSON file, checked against the scripts' own flags."""
    if path is None:
        return {}
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--deepspeed_config {path} cannot be read as JSON: {error}") from error
    if too_deep(values):
        raise UserError(
            f"--deepspeed_config {path} has values more than {MAX_DEPTH} deep inside each other; "
            "expected DeepSpeed's settings. Remove what lies deeper."
        )
    if not isinstance(values, dict):
        raise UserError(f"--deepspeed_config {path}: expected a JSON object.")
    for key in values:
        if key in OWNED_BY_FLAGS:
            raise UserError(
                f"--deepspeed_config {path}: remove {key!r}; use {OWNED_BY_FLAGS[key]} instead."
            )
    zero = values.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise UserError(
            f"--deepspeed_config {path}: 'zero_optimization' is {zero!r}; expected a JSON object."
        )
    if "stage" in zero:
        raise UserError(
            f"--deepspeed_config {path}: remove 'stage'; use the script's ZeRO stage flag."
        )
    return values
