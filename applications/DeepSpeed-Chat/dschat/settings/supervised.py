"""The settings of steps 1 and 2: DeepSpeed-Chat's flags, with what each does."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from dschat.settings.command_line import flag, require
from dschat.settings.flags import plugin_flag
from dschat.settings.resume import ResumeFlags, require_resume

SCHEDULERS = [
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
]
DEFAULT_LORA_LEARNING_RATE = 5e-4


def adapter_learning_rate(settings: Any, role: str = "") -> float:
    """The learning rate of adapters, by one rule for all scripts.

    It is --lora_learning_rate where that is given; else --learning_rate where that is on the
    command line or, as in a config file, another than its default; else 5e-4, as in
    DeepSpeed-Chat: what suits whole weights hardly moves an adapter.

    Args:
        settings: a dataclass with the flags of a script. role: their prefix, such as "actor_".
    """
    own = getattr(settings, f"{role}lora_learning_rate")
    if own is not None:
        return own
    name = f"{role}learning_rate"
    default = next(f.default for f in dataclasses.fields(settings) if f.name == name)
    rate = getattr(settings, name)
    unset = rate == default and name not in settings.given
    return DEFAULT_LORA_LEARNING_RATE if unset else rate


@dataclass
class FineTuningConfig(ResumeFlags):
    """What steps 1 and 2 have in common."""

    data_path: list[str] = flag(
        ["Dahoas/rm-static"],
        "Names of data sets, or paths of local files or folders with the same columns; several are "
        "blended.",
    )
    data_split: str = flag(
        "2,4,4", "How the training rows are divided between steps 1, 2 and 3, as proportions."
    )
    data_output_path: str | None = flag(
        None, "Folder for prepared data, kept for the next run; unset: data/ in output_dir."
    )
    plugin: list[str] | None = plugin_flag("data schemas")
    model_name_or_path: str | None = flag(
        None, "The model to start from: a Hugging Face model folder or a hub name. Required."
    )
    apply_chat_template: bool = flag(
        False,
        "Write prompts that are plain texts with the model's chat template: a dialogue "
        "(Human: ... Assistant:) as its turns, any other text as a user's turn.",
    )
    per_device_train_batch_size: int = flag(16, "Training rows per rank and micro-step.")
    per_device_eval_batch_size: int = flag(16, "Held-out rows per rank and forward pass.")
    max_seq_len: int = flag(512, "Texts are cut to this many tokens.")
    learning_rate: float = flag(1e-3, "Highest learning rate of AdamW (betas 0.9 and 0.95).")
    weight_decay: float = flag(0.0, "Weight decay of matrices; biases and norms have none.")
    num_train_epochs: int = flag(1, "Passes over the training rows.")
    gradient_accumulation_steps: int = flag(1, "Micro-steps per optimiser step.")
    lr_scheduler_type: str = flag(
        "cosine", "Course of the learning rate after the warm-up.", choices=SCHEDULERS
    )
    num_warmup_steps: int = flag(0, "Optimiser steps of linear warm-up.")
    warmup_ratio: float = flag(0.0, "Warm-up as a share of all optimiser steps, instead.")
    output_dir: str | None = flag(None, "Folder for the model, metrics and settings. Required.")
    seed: int = flag(1234, "Seed of data order, dropout and new weights.")
    local_rank: int = flag(-1, "Set by the launcher.")
    gradient_checkpointing: bool = flag(
        False, "Compute activations again in the backward pass: less memory, more time."
    )
    dropout: float | None = flag(None, "Every dropout probability of the model; unset: its own.")
    offload: bool = flag(
        False, "Keep the optimiser's state (ZeRO 3: parameters too) in CPU memory."
    )
    dtype: str | None = flag(
        None, "fp32, bf16 or fp16; unset: bf16 on a GPU that has it, fp32 elsewhere."
    )
    zero_stage: int = flag(0, "ZeRO stage of DeepSpeed: 0, 1, 2 or 3.")
    lora_dim: int = flag(0, "Rank of LoRA adapters; 0: none. They are merged when saving.")
    lora_module_name: str = flag(
        "decoder.layers.",
        "Linear layers whose name contains this text get an adapter (the default is OPT's; "
        "'model.layers.' fits Llama and Gemma).",
    )
    only_optimize_lora: bool = flag(
        False, "Train the adapters only (and the reward head); else the base weights train as well."
    )
    lora_learning_rate: float | None = flag(
        None,
        "Learning rate of the adapters; unset: --learning_rate where it is given another "
        "value than its default, else 5e-4.",
    )
    compute_fp32_loss: bool = flag(
        False,
        "With bf16 or fp16: compute logits (step 1) or score differences (step 2) in fp32. The "
        "log-softmax is always in fp32.",
    )
    enable_tensorboard: bool = flag(False, "Write TensorBoard logs.")
    tensorboard_path: str | None = flag(
        None, "Folder for them; unset: a folder 'tensorboard' in output_dir."
    )
    end_of_conversation_token: str | None = flag(
        None, "Token that ends every text; unset: the tokenizer's own end token."
    )
    add_eot_token: bool = flag(
        False, "Add end_of_conversation_token to the vocabulary if it is not there."
    )
    pad_token: str | None = flag(None, "Token to pad with, for tokenizers that name none.")
    print_loss: bool = flag(False, "Print the loss of every optimiser step.")
    deepspeed: bool = flag(
        False, "Accepted as DeepSpeed users write it; training always runs under DeepSpeed."
    )
    deepspeed_config: str | None = flag(
        None, "JSON file with further DeepSpeed settings, for those that are not flags here."
    )

    def validate(self) -> None:
        """Refuse values that cannot be meant; raises `UserError`."""
        require(self.model_name_or_path is not None, "Give the model: --model_name_or_path FOLDER.")
        require(self.output_dir is not None, "Give a folder for the results: --output_dir FOLDER.")
        for name in (
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "num_train_epochs",
            "gradient_accumulation_steps",
        ):
            value = getattr(self, name)
            require(value >= 1, f"--{name} {value}: expected 1 or more.")
        require(self.max_seq_len >= 2, f"--max_seq_len {self.max_seq_len}: expected 2 or more.")
        for name in ("weight_decay", "num_warmup_steps", "seed", "lora_dim"):
            value = getattr(self, name)
            require(value >= 0, f"--{name} {value}: expected 0 or more.")
        require(self.learning_rate > 0, f"--learning_rate {self.learning_rate}: expected above 0.")
        require(
            self.zero_stage in (0, 1, 2, 3),
            f"--zero_stage {self.zero_stage}: expected 0, 1, 2 or 3.",
        )
        require(
            self.lr_scheduler_type in SCHEDULERS,
            f"--lr_scheduler_type {self.lr_scheduler_type!r} is unknown; expected one of "
            f"{', '.join(SCHEDULERS)}.",
        )
        require(
            0.0 <= self.warmup_ratio < 1.0,
            f"--warmup_ratio {self.warmup_ratio}: expected a share in [0, 1).",
        )
        require_resume(self)
        self._validate_pairs()

    def _validate_pairs(self) -> None:
        """Refuse flags that contradict each other or would do nothing."""
        require(
            not (self.num_warmup_steps and self.warmup_ratio),
            "--num_warmup_steps and --warmup_ratio both set the warm-up; give one of them.",
        )
        warms_up = bool(self.num_warmup_steps or self.warmup_ratio)
        require(
            not (warms_up and self.lr_scheduler_type == "constant"),
            "--lr_scheduler_type constant has no warm-up; use constant_with_warmup.",
        )
        require(
            self.lora_dim > 0 or not self.only_optimize_lora,
            "--only_optimize_lora needs adapters: add --lora_dim, for example --lora_dim 16.",
        )
        require(
            self.lora_dim > 0 or self.lora_learning_rate is None,
            "--lora_learning_rate needs adapters: add --lora_dim, for example --lora_dim 16.",
        )
        require(
            self.enable_tensorboard or self.tensorboard_path is None,
            "--tensorboard_path has an effect only with --enable_tensorboard; add that flag.",
        )
        require(
            not self.add_eot_token or self.end_of_conversation_token is not None,
            "--add_eot_token needs the token: --end_of_conversation_token '<|end|>', for example.",
        )
        if self.lora_dim > 0 and self.lora_learning_rate is None:
            self.lora_learning_rate = adapter_learning_rate(self)


@dataclass
class SupervisedConfig(FineTuningConfig):
    """Step 1: supervised fine-tuning on the chosen responses."""

    sft_only_data_path: list[str] = flag(
        [], "Data sets that are used in this step only, with all their rows."
    )
    completion_only_loss: bool = flag(
        False,
        "Learn the responses only. Without it the loss is over prompt and response, as in "
        "DeepSpeed-Chat.",
    )


@dataclass
class RewardModelingConfig(FineTuningConfig):
    """Step 2: a reward model from pairs of a chosen and a rejected response."""

    learning_rate: float = flag(5e-5, "Highest learning rate of AdamW (betas 0.9 and 0.95).")
    num_padding_at_beginning: int = flag(
        0, "Pad tokens that every text starts with, as OPT models (1) were trained."
    )
    eval_interval: int = flag(
        0,
        "Evaluate and save output_dir/step_N every so many micro-steps; 0: evaluate after each "
        "epoch. The last micro-step is always evaluated and saved.",
    )
    eval_iters: int = flag(
        100,
        "Batches per rank in the evaluations before and during training; the one at the end takes "
        "all held-out pairs.",
    )

    def validate(self) -> None:
        """See `FineTuningConfig.validate`."""
        super().validate()
        for name in ("num_padding_at_beginning", "eval_interval"):
            value = getattr(self, name)
            require(value >= 0, f"--{name} {value}: expected 0 or more.")
        require(self.eval_iters >= 1, f"--eval_iters {self.eval_iters}: expected 1 or more.")
