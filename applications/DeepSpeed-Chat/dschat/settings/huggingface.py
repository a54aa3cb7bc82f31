"""Training flags by the names that Hugging Face users know."""

from __future__ import annotations

from dataclasses import dataclass

from dschat.settings.command_line import flag, require
from dschat.settings.supervised import SCHEDULERS


@dataclass
class HuggingFaceFlags:
    """What `transformers.TrainingArguments` and these scripts have in common."""

    per_device_train_batch_size: int = flag(8, "Rows per rank and micro-step.")
    gradient_accumulation_steps: int = flag(1, "Micro-steps per optimiser step.")
    num_train_epochs: float = flag(1.0, "Passes over the training rows.")
    max_steps: int = flag(-1, "Optimiser steps, instead of epochs; -1: as the epochs say.")
    learning_rate: float = flag(1e-6, "Highest learning rate of AdamW (betas 0.9 and 0.95).")
    lora_learning_rate: float | None = flag(
        None,
        "Learning rate of the adapters; unset: --learning_rate where it is given another "
        "value than its default, else 5e-4.",
    )
    weight_decay: float = flag(0.0, "Weight decay of matrices; biases and norms have none.")
    lr_scheduler_type: str = flag(
        "linear", "Course of the learning rate after the warm-up.", choices=SCHEDULERS
    )
    warmup_steps: int = flag(0, "Optimiser steps of linear warm-up.")
    warmup_ratio: float = flag(0.0, "Warm-up as a share of all optimiser steps, instead.")
    bf16: bool = flag(False, "Train in bfloat16; without --bf16 and --fp16: in float32.")
    fp16: bool = flag(False, "Train in float16 with dynamic loss scaling; needs a GPU.")
    gradient_checkpointing: bool = flag(
        False, "Compute activations again in the backward pass: less memory, more time."
    )
    seed: int = flag(42, "Seed of data order, sampling and new weights.")
    report_to: str = flag(
        "none",
        "tensorboard: TensorBoard logs in output_dir/tensorboard, beside metrics.jsonl.",
        choices=["none", "tensorboard"],
    )
    deepspeed: bool = flag(
        False, "Accepted as DeepSpeed users write it; training always runs under DeepSpeed."
    )
    deepspeed_config: str | None = flag(
        None, "JSON file with further DeepSpeed settings, for those that are not flags here."
    )
    zero_stage: int = flag(0, "ZeRO stage of DeepSpeed: 0, 1, 2 or 3.")
    offload: bool = flag(
        False, "Keep the optimiser's state (ZeRO 3: parameters too) in CPU memory."
    )
    local_rank: int = flag(-1, "Set by the launcher.")

    @property
    def dtype(self) -> str:
        """What --bf16 and --fp16 say."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else "fp32"

    def check_lora_flags(self) -> None:
        """Refuse a rate for adapters that are not there; raises `UserError`."""
        require(
            self.lora_learning_rate is None or getattr(self, "lora_dim", 0) > 0,
            "--lora_learning_rate needs adapters: add --lora_dim, for example --lora_dim 16.",
        )
        require(
            self.lora_learning_rate is None or self.lora_learning_rate > 0,
            f"--lora_learning_rate {self.lora_learning_rate}: expected above 0.",
        )

    def validate_training(self) -> None:
        """Refuse values that cannot be meant; raises `UserError`."""
        for name in (
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
        ):
            value = getattr(self, name)
            require(value >= 1, f"--{name} {value}: expected 1 or more.")
        require(not (self.bf16 and self.fp16), "--bf16 and --fp16 contradict each other; give one.")
        require(
            self.num_train_epochs > 0,
            f"--num_train_epochs {self.num_train_epochs}: expected a number above 0.",
        )
        require(
            self.max_steps >= 1 or self.max_steps == -1,
            f"--max_steps {self.max_steps}: expected 1 or more, or -1 for whole epochs.",
        )
        require(
            not (self.warmup_steps and self.warmup_ratio),
            "--warmup_steps and --warmup_ratio both set the warm-up; give one of them.",
        )
