"""The settings of steps 1 and 2: DeepSpeed-Chat's flags, with what each does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from dschat.settings.command_line import flag, require
from dschat.settings.flags import (
    RARELY_NEEDED,
    RESUMING,
    chat_template_flag,
    plugin_flag,
    require_at_least,
)
from dschat.settings.training.publishing import PublishingFlags
from dschat.settings.training.tracking import TrackingFlags

SCHEDULERS = [
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
]
DEFAULT_LORA_LEARNING_RATE = 5e-4


@dataclass
class TrainingFlags(PublishingFlags, TrackingFlags):
    """What every training script has: trackers, checkpoints, resuming, the launcher's flags."""

    checkpoint_steps: int = flag(
        0,
        "Save a resumable checkpoint to output_dir/resumable-N every N iterations (step 3 and "
        "GRPO) or optimiser steps (steps 1, 2 and DPO); 0: only when SIGTERM stops the run.",
        group=RESUMING,
    )
    checkpoint_keep: int = flag(1, "Number of resumable checkpoints that are kept: the newest.")
    resume_from_checkpoint: str | None = flag(
        None,
        "Resume from a checkpoint: auto, the newest complete one in output_dir (if there is none, "
        "a new run), or the path of a resumable-N folder.",
    )
    max_bad_steps: int = flag(
        3,
        "Stop after this number of consecutive optimiser steps that were skipped because a loss, a "
        "gradient or one of their inputs (step 3: rewards, log-probabilities, advantages) was not "
        "finite. The inputs are saved to output_dir/bad_steps.",
    )
    deepspeed_config: str | None = flag(
        None,
        "JSON file with further DeepSpeed settings, for those that are not flags here.",
        group=RARELY_NEEDED,
    )
    deepspeed: bool = flag(
        False, "Accepted as DeepSpeed users write it; training always runs under DeepSpeed."
    )
    local_rank: int = flag(-1, "Set by the launcher.")


def check_training(config: TrainingFlags) -> None:
    """Refuse what does not fit among the flags of every training script; raises `UserError`."""
    require_at_least(config, 0, "checkpoint_steps")
    require_at_least(config, 1, "checkpoint_keep", "max_bad_steps")
    config.validate_tracking()
    config.validate_publishing()


def adapter_learning_rate(settings: Any, role: str = "") -> float:
    """The learning rate of adapters, by one rule for all scripts.

    --lora_learning_rate if given; else --learning_rate if given; else 5e-4, as in DeepSpeed-Chat:
    the default for whole weights is too small for an adapter.

    Args:
        settings: a dataclass with the flags of a script.
        role: their prefix, such as "actor_".
    """
    own = getattr(settings, f"{role}lora_learning_rate")
    if own is not None:
        return own
    name = f"{role}learning_rate"
    return getattr(settings, name) if name in settings.given else DEFAULT_LORA_LEARNING_RATE


@dataclass
class FineTuningConfig(TrainingFlags):
    """What steps 1 and 2 have in common."""

    derived: ClassVar[tuple[str, ...]] = ("lora_learning_rate",)

    model_name_or_path: str | None = flag(
        None,
        "The model to start from: a Hugging Face model folder or a hub name. Required.",
        group="Model",
    )
    end_of_conversation_token: str | None = flag(
        None, "Token that ends every text; unset: the tokenizer's own end token."
    )
    add_eot_token: bool = flag(
        False, "Add end_of_conversation_token to the vocabulary if it is missing."
    )
    pad_token: str | None = flag(None, "Padding token, for tokenizers without one.")
    dropout: float | None = flag(None, "Every dropout probability of the model; unset: its own.")
    data_path: list[str] = flag(
        ["Dahoas/rm-static"],
        "Names of data sets, or paths of local files or folders with the same columns; several are "
        "blended.",
        group="Data",
    )
    data_split: str = flag(
        "2,4,4", "How the training rows are divided between steps 1, 2 and 3, as proportions."
    )
    data_output_path: str | None = flag(
        None, "Cache folder for prepared data; unset: data/ in output_dir."
    )
    plugin: list[str] | None = plugin_flag("data schemas")
    apply_chat_template: bool = chat_template_flag()
    max_seq_len: int = flag(512, "Texts are truncated to this many tokens.")
    per_device_train_batch_size: int = flag(
        16, "Training rows per rank and micro-step.", group="Training"
    )
    per_device_eval_batch_size: int = flag(16, "Held-out rows per rank and forward pass.")
    gradient_accumulation_steps: int = flag(1, "Micro-steps per optimiser step.")
    num_train_epochs: int = flag(1, "Passes over the training rows.")
    learning_rate: float = flag(1e-3, "Peak learning rate of AdamW (betas 0.9 and 0.95).")
    weight_decay: float = flag(0.0, "Weight decay of matrices; biases and norms have none.")
    lr_scheduler_type: str = flag(
        "cosine", "Learning rate schedule after the warm-up.", choices=SCHEDULERS
    )
    num_warmup_steps: int = flag(0, "Optimiser steps of linear warm-up.")
    warmup_ratio: float = flag(0.0, "Warm-up as a share of all optimiser steps, instead.")
    seed: int = flag(1234, "Seed of data order, dropout and new weights.")
    lora_dim: int = flag(
        0, "Rank of LoRA adapters; 0: none. They are merged when saving.", group="LoRA"
    )
    lora_module_name: str = flag(
        "decoder.layers.",
        "Linear layers whose name contains this text get an adapter (the default fits OPT; "
        "'model.layers.' fits Llama and Gemma).",
    )
    only_optimize_lora: bool = flag(
        False, "Train the adapters only (and the reward head); else the base weights train as well."
    )
    lora_learning_rate: float | None = flag(
        None, "Learning rate of the adapters; unset: --learning_rate if that is given, else 5e-4."
    )
    dtype: str | None = flag(
        None,
        "fp32, bf16 or fp16; unset: bf16 on a GPU that has it, fp32 elsewhere.",
        group="Memory and precision",
    )
    compute_fp32_loss: bool = flag(
        False,
        "With bf16 or fp16: compute logits (step 1) or score differences (step 2) in fp32. The "
        "log-softmax is always in fp32.",
    )
    gradient_checkpointing: bool = flag(
        False, "Recompute activations in the backward pass: less memory, more time."
    )
    zero_stage: int = flag(0, "ZeRO stage of DeepSpeed: 0, 1, 2 or 3.")
    offload: bool = flag(
        False, "Keep the optimiser's state (ZeRO 3: parameters too) in CPU memory."
    )
    output_dir: str | None = flag(
        None, "Folder for the model, metrics and settings. Required.", group="Output"
    )
    print_loss: bool = flag(False, "Print the loss of every optimiser step.")

    def validate(self) -> None:
        """Check the values; raises `UserError`."""
        require(self.model_name_or_path is not None, "Give the model: --model_name_or_path FOLDER.")
        require(self.output_dir is not None, "Give a folder for the results: --output_dir FOLDER.")
        require_at_least(self, 1, "per_device_train_batch_size", "per_device_eval_batch_size")
        require_at_least(self, 1, "num_train_epochs", "gradient_accumulation_steps")
        require_at_least(self, 2, "max_seq_len")
        require_at_least(self, 0, "weight_decay", "num_warmup_steps", "seed", "lora_dim")
        require(self.learning_rate > 0, f"--learning_rate {self.learning_rate}: expected above 0.")
        require(
            self.zero_stage in (0, 1, 2, 3),
            f"--zero_stage {self.zero_stage}: expected 0, 1, 2 or 3.",
        )
        require(
            0.0 <= self.warmup_ratio < 1.0,
            f"--warmup_ratio {self.warmup_ratio}: expected a share in [0, 1).",
        )
        check_training(self)
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
            not self.add_eot_token or self.end_of_conversation_token is not None,
            "--add_eot_token needs the token: --end_of_conversation_token '<|end|>', for example.",
        )
        if self.lora_dim > 0 and self.lora_learning_rate is None:
            self.lora_learning_rate = adapter_learning_rate(self)


@dataclass
class SupervisedConfig(FineTuningConfig):
    """Step 1: supervised fine-tuning on the chosen responses."""

    sft_only_data_path: list[str] = flag(
        [], "Data sets that are used in this step only, with all their rows.", group="Data"
    )
    completion_only_loss: bool = flag(
        False,
        "Compute the loss on the responses only. Without it: on prompt and response, as in "
        "DeepSpeed-Chat.",
        group="Training",
    )


@dataclass
class RewardModelingConfig(FineTuningConfig):
    """Step 2: a reward model from pairs of a chosen and a rejected response."""

    learning_rate: float = flag(5e-5, "Peak learning rate of AdamW (betas 0.9 and 0.95).")
    num_padding_at_beginning: int = flag(
        0,
        "Padding tokens that every text starts with, as OPT models (1) were trained.",
        group="Data",
    )
    eval_interval: int = flag(
        0,
        "Evaluate and save output_dir/step_N every N micro-steps; 0: evaluate after each epoch. "
        "The last micro-step is always evaluated and saved.",
        group="Evaluation",
    )
    eval_iters: int = flag(
        100,
        "Batches per rank in the evaluations before and during training; the one at the end uses "
        "all held-out pairs.",
    )

    def validate(self) -> None:
        """See `FineTuningConfig.validate`."""
        super().validate()
        require_at_least(self, 0, "num_padding_at_beginning", "eval_interval")
        require_at_least(self, 1, "eval_iters")
