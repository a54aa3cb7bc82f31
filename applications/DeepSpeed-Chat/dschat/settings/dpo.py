"""The settings of DPO with several references: the flags Hugging Face users know."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from dschat.settings.command_line import flag, require
from dschat.settings.flags import plugin_flag
from dschat.settings.huggingface import HuggingFaceFlags
from dschat.settings.references import (
    REPLACED_MULTI_REFERENCE_FLAGS,
    ReferenceFlags,
    reference_weights,
)
from dschat.settings.supervised import FineTuningConfig, ResumeFlags, adapter_learning_rate

# Flags that users of other DPO scripts type -> what to use here.
REPLACED_DPO_FLAGS: dict[str, str] = {
    **REPLACED_MULTI_REFERENCE_FLAGS,
    "model_name_or_path": "the policy is named with --model",
    "dataset_name": "the data set is named with --dataset",
    "eval_strategy": "evaluate every N steps with --eval_steps N",
    "evaluation_strategy": "evaluate every N steps with --eval_steps N",
    "save_strategy": "save every N steps with --save_steps N",
    "dtype": "give --bf16 or --fp16, or neither for float32",
    "loss_type": "the loss is decided by --kl_type rkl or fkl",
}


@dataclass
class DirectPreferenceConfig(ReferenceFlags, HuggingFaceFlags, ResumeFlags):
    """DPO from preference pairs, the policy held near several references."""

    gamma: float = flag(1.0, "Strength of the penalty; with one reference and rkl it is DPO's beta")
    max_log_ratio: float = flag(
        10.0,
        "FKL: above this log of reference / policy the ratio goes on as a straight line, so that "
        "it can not overflow. Not read with --kl_type rkl.",
    )
    # Data
    dataset: list[str] = flag(
        ["ultrafeedback"],
        "Names of data sets of preference pairs, or paths of local files or folders with the "
        "columns prompt, chosen, rejected (texts or messages); several are blended.",
    )
    data_output_path: str | None = flag(
        None, "Folder for prepared data, kept for the next run; unset: data/ in output_dir."
    )
    plugin: list[str] | None = plugin_flag("data schemas")
    apply_chat_template: bool = flag(
        False,
        "Write prompts that are plain texts with the model's chat template: a dialogue "
        "(Human: ... Assistant:) as its turns, any other text as a user's turn.",
    )
    max_length: int = flag(1024, "Prompt and response are cut to this many tokens.")
    max_prompt_length: int | None = flag(
        None, "Pairs whose prompt is longer than this many tokens are left out (and counted)."
    )
    # Models
    model: str | None = flag(
        None, "The policy to start from; unset: ref_a, or the first of --refs."
    )
    output_dir: str | None = flag(None, "Folder for the model, metrics and settings. Required.")
    end_of_conversation_token: str | None = flag(
        None, "Token that ends every response; unset: the tokenizer's own end token."
    )
    pad_token: str | None = flag(None, "Token to pad with, for tokenizers that name none.")
    lora_dim: int = flag(
        0, "Rank of LoRA adapters, which are then all that is trained; 0: the whole model."
    )
    lora_module_name: str = flag(
        "layers.", "Linear layers whose name contains this text get an adapter."
    )
    # Training
    per_device_eval_batch_size: int = flag(
        8, "Pairs per rank where nothing is trained: references, held-out pairs, responses."
    )
    logging_steps: int = flag(1, "Write metrics every so many optimiser steps, as their mean.")
    eval_steps: int = flag(
        0,
        "Evaluate on the held-out pairs every so many optimiser steps; 0: before the first and "
        "after the last step only.",
    )
    save_steps: int = flag(
        0,
        "Save the model to output_dir/checkpoint-N every so many optimiser steps (without the "
        "optimiser's state); 0: only at the end, to output_dir.",
    )
    # Comparison at the end
    rm_name: str | None = flag(
        None,
        "Reward model (folder or hub name; any tokenizer): at the end it scores responses of the "
        "policy and of each reference to held-out prompts. Unset: no comparison.",
    )
    num_samples: int = flag(256, "At most so many held-out prompts are compared (--rm_name).")
    max_new_tokens: int = flag(256, "Their responses stop at this many tokens.")
    temperature: float = flag(1.0, "Sampling temperature of these responses.")

    @property
    def policy(self) -> tuple[str, str]:
        """The model to start from, and the flag that names it."""
        if self.model is not None:
            return self.model, "model"
        if self.refs is not None:
            return self.refs[0], "refs"
        assert self.ref_a is not None
        return self.ref_a, "ref_a"

    def validate(self) -> None:
        """Refuse values that cannot be meant; raises `UserError`."""
        reference_weights(self)
        require(self.output_dir is not None, "Give a folder for the results: --output_dir FOLDER.")
        require(bool(self.dataset), "Give the preference pairs: --dataset NAME_OR_PATH.")
        self.validate_training()
        self.check_lora_flags()
        self._refuse_idle_flags()
        for name in ("gamma", "max_log_ratio", "temperature"):
            value = getattr(self, name)
            require(value > 0, f"--{name} {value}: expected a number above 0.")
        require(
            self.max_log_ratio <= 80,
            f"--max_log_ratio {self.max_log_ratio}: e^88 overflows; expected at most 80.",
        )
        for name in ("logging_steps", "num_samples", "max_new_tokens"):
            value = getattr(self, name)
            require(value >= 1, f"--{name} {value}: expected 1 or more.")
        for name in ("eval_steps", "save_steps", "warmup_steps"):
            value = getattr(self, name)
            require(value >= 0, f"--{name} {value}: expected 0 or more.")
        require(self.max_length >= 2, f"--max_length {self.max_length}: expected 2 or more.")
        require(
            self.max_prompt_length is None or 1 <= self.max_prompt_length < self.max_length,
            f"--max_prompt_length {self.max_prompt_length}: expected 1 or more, and less than "
            f"--max_length {self.max_length}.",
        )
        self.fine_tuning().validate()

    def _refuse_idle_flags(self) -> None:
        """Flags that would do nothing without another one."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        for names, used, where in (
            (("max_log_ratio",), self.kl_type == "fkl", "--kl_type fkl"),
            (("lora_module_name",), self.lora_dim > 0, "--lora_dim"),
            (
                ("num_samples", "max_new_tokens", "temperature"),
                self.rm_name is not None,
                "--rm_name",
            ),
        ):
            for name in names:
                require(
                    used or getattr(self, name) == defaults[name],
                    f"--{name} belongs to {where}. Remove it, or add that flag.",
                )

    def fine_tuning(self) -> FineTuningConfig:
        """These settings under the names that all fine-tuning here shares."""
        return FineTuningConfig(
            data_path=self.dataset,
            data_output_path=self.data_output_path,
            apply_chat_template=self.apply_chat_template,
            model_name_or_path=self.policy[0],
            per_device_train_batch_size=self.per_device_train_batch_size,
            per_device_eval_batch_size=self.per_device_eval_batch_size,
            max_seq_len=self.max_length,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            lr_scheduler_type=self.lr_scheduler_type,
            num_warmup_steps=self.warmup_steps,
            warmup_ratio=self.warmup_ratio,
            output_dir=self.output_dir,
            seed=self.seed,
            local_rank=self.local_rank,
            gradient_checkpointing=self.gradient_checkpointing,
            offload=self.offload,
            dtype=self.dtype,
            zero_stage=self.zero_stage,
            lora_dim=self.lora_dim,
            lora_learning_rate=adapter_learning_rate(self) if self.lora_dim else None,
            enable_tensorboard=self.report_to == "tensorboard",
            end_of_conversation_token=self.end_of_conversation_token,
            pad_token=self.pad_token,
            deepspeed_config=self.deepspeed_config,
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(ResumeFlags)},
        )
