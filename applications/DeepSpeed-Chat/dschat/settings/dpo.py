"""The settings of DPO with several references: the flags Hugging Face users know."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from dschat.settings.command_line import REPLACED_FLAGS, flag, require
from dschat.settings.flags import (
    chat_template_flag,
    plugin_flag,
    require_at_least,
)
from dschat.settings.references import (
    KL_TYPES,
    REFERENCES,
    ReferenceFlags,
    reference_weights,
)
from dschat.settings.supervised import (
    SCHEDULERS,
    FineTuningConfig,
    TrainingFlags,
    adapter_learning_rate,
)

# Flags that users of other DPO scripts type -> what to use here.
REPLACED_DPO_FLAGS: dict[str, str] = {
    **REPLACED_FLAGS,
    "model_name_or_path": "the policy is named with --model",
    "dataset_name": "the data set is named with --dataset",
    "eval_strategy": "evaluate every N steps with --eval_steps N",
    "evaluation_strategy": "evaluate every N steps with --eval_steps N",
    "save_strategy": "save every N steps with --save_steps N",
    "dtype": "give --bf16 or --fp16, or neither for float32",
    "loss_type": "the loss is decided by --kl_type rkl, fkl or rkl_chi2 (chi-PO)",
}


@dataclass
class DirectPreferenceConfig(ReferenceFlags, TrainingFlags):
    """DPO from preference pairs, the policy held near several references."""

    kl_type: str = flag(
        "rkl",
        "Divergence from the references: rkl, sum_k w_k KL(policy || ref_k), or fkl, "
        "sum_k w_k KL(ref_k || policy); rkl_chi2 adds the chi-squared divergence to rkl (chi-PO's "
        "mixed link).",
        choices=[*KL_TYPES, "rkl_chi2"],
        group=REFERENCES,
    )
    gamma: float = flag(
        1.0, "Strength of the penalty; with one reference and rkl it is DPO's beta."
    )
    max_log_ratio: float = flag(
        10.0,
        "fkl: above this log of reference / policy, rkl_chi2: of policy / reference, the ratio "
        "continues linearly, so that it cannot overflow.",
    )
    model: str | None = flag(
        None, "The policy to start from; unset: ref_a, or the first of --refs.", group="Model"
    )
    end_of_conversation_token: str | None = flag(
        None, "Token that ends every response; unset: the tokenizer's own end token."
    )
    pad_token: str | None = flag(None, "Padding token, for tokenizers without one.")
    dataset: list[str] = flag(
        ["ultrafeedback"],
        "Names of data sets of preference pairs, or paths of local files or folders with the "
        "columns prompt, chosen, rejected (texts or messages); several are blended.",
        group="Data",
    )
    data_output_path: str | None = flag(
        None, "Cache folder for prepared data; unset: data/ in output_dir."
    )
    plugin: list[str] | None = plugin_flag("data schemas")
    apply_chat_template: bool = chat_template_flag()
    max_length: int = flag(1024, "Prompt and response are truncated to this many tokens.")
    max_prompt_length: int | None = flag(
        None, "Pairs whose prompt is longer than this many tokens are skipped (and counted)."
    )
    per_device_train_batch_size: int = flag(8, "Rows per rank and micro-step.", group="Training")
    gradient_accumulation_steps: int = flag(1, "Micro-steps per optimiser step.")
    num_train_epochs: float = flag(1.0, "Passes over the training rows.")
    max_steps: int = flag(-1, "Optimiser steps, instead of epochs; -1: as the epochs say.")
    learning_rate: float = flag(1e-6, "Peak learning rate of AdamW (betas 0.9 and 0.95).")
    weight_decay: float = flag(0.0, "Weight decay of matrices; biases and norms have none.")
    lr_scheduler_type: str = flag(
        "linear", "Learning rate schedule after the warm-up.", choices=SCHEDULERS
    )
    warmup_steps: int = flag(0, "Optimiser steps of linear warm-up.")
    warmup_ratio: float = flag(0.0, "Warm-up as a share of all optimiser steps, instead.")
    seed: int = flag(42, "Seed of data order, sampling and new weights.")
    lora_dim: int = flag(
        0,
        "Rank of LoRA adapters, which are then all that is trained; 0: the whole model.",
        group="LoRA",
    )
    lora_module_name: str = flag(
        "layers.", "Linear layers whose name contains this text get an adapter."
    )
    lora_learning_rate: float | None = flag(
        None, "Learning rate of the adapters; unset: --learning_rate if that is given, else 5e-4."
    )
    bf16: bool = flag(
        False,
        "Train in bfloat16; without --bf16 and --fp16: in float32.",
        group="Memory and precision",
    )
    fp16: bool = flag(False, "Train in float16 with dynamic loss scaling; needs a GPU.")
    gradient_checkpointing: bool = flag(
        False, "Recompute activations in the backward pass: less memory, more time."
    )
    zero_stage: int = flag(0, "ZeRO stage of DeepSpeed: 0, 1, 2 or 3.")
    offload: bool = flag(
        False, "Keep the optimiser's state (ZeRO 3: parameters too) in CPU memory."
    )
    output_dir: str | None = flag(
        None,
        "Folder for the model, metrics and settings. Required.",
        group="Output and evaluation",
    )
    logging_steps: int = flag(1, "Write metrics every N optimiser steps, as their mean.")
    save_steps: int = flag(
        0,
        "Save the model to output_dir/checkpoint-N every N optimiser steps (without the "
        "optimiser's state); 0: only at the end, to output_dir.",
    )
    eval_steps: int = flag(
        0,
        "Evaluate on the held-out pairs every N optimiser steps; 0: before the first and after "
        "the last step only.",
    )
    per_device_eval_batch_size: int = flag(
        8, "Pairs per rank where nothing is trained: references, held-out pairs, responses."
    )
    rm_name: str | None = flag(
        None,
        "Reward model (folder or hub name; any tokenizer): at the end it scores responses of the "
        "policy and of each reference to held-out prompts. Unset: no comparison.",
        group="Comparison at the end",
    )
    num_samples: int = flag(256, "Maximum number of held-out prompts (--rm_name).")
    max_new_tokens: int = flag(256, "Maximum length of their responses, in tokens.")
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

    @property
    def dtype(self) -> str:
        """Of --bf16 and --fp16."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else "fp32"

    def validate(self) -> None:
        """Check the values; raises `UserError`."""
        reference_weights(self, self.kl_type)
        require(self.output_dir is not None, "Give a folder for the results: --output_dir FOLDER.")
        require(bool(self.dataset), "Give the preference pairs: --dataset NAME_OR_PATH.")
        require_at_least(self, 1, "per_device_train_batch_size", "gradient_accumulation_steps")
        require_at_least(self, 1, "logging_steps", "num_samples", "max_new_tokens")
        require_at_least(self, 0, "eval_steps", "save_steps", "warmup_steps")
        require_at_least(self, 2, "max_length")
        for name in (
            *("gamma", "max_log_ratio", "temperature", "num_train_epochs", "lora_learning_rate"),
        ):
            value = getattr(self, name)
            require(
                value is None or value > 0,
                f"{self.flag(name)} {value}: expected a number above 0.",
            )
        require(
            self.max_log_ratio <= 80,
            f"--max_log_ratio {self.max_log_ratio}: e^88 overflows; expected at most 80.",
        )
        require(
            self.max_prompt_length is None or 1 <= self.max_prompt_length < self.max_length,
            f"--max_prompt_length {self.max_prompt_length}: expected 1 or more, and less than "
            f"--max_length {self.max_length}.",
        )
        require(
            self.max_steps >= 1 or self.max_steps == -1,
            f"--max_steps {self.max_steps}: expected 1 or more, or -1 for whole epochs.",
        )
        require(not (self.bf16 and self.fp16), "--bf16 and --fp16 contradict each other; give one.")
        require(
            not (self.warmup_steps and self.warmup_ratio),
            "--warmup_steps and --warmup_ratio both set the warm-up; give one of them.",
        )
        require(
            self.lora_learning_rate is None or self.lora_dim > 0,
            "--lora_learning_rate needs adapters: add --lora_dim, for example --lora_dim 16.",
        )
        self._refuse_idle_flags()
        self.fine_tuning().validate()

    def _refuse_idle_flags(self) -> None:
        """Refuse flags that do nothing without another one."""
        for names, used, where in (
            (["max_log_ratio"], self.kl_type != "rkl", "--kl_type fkl or rkl_chi2"),
            (["lora_module_name", "save_adapter"], self.lora_dim > 0, "--lora_dim"),
            (["num_samples", "max_new_tokens", "temperature"], bool(self.rm_name), "--rm_name"),
        ):
            for name in names:
                require(
                    used or name not in self.given,
                    f"{self.flag(name)} belongs to {where}. Remove it, or add that flag.",
                )

    def fine_tuning(self) -> FineTuningConfig:
        """These settings under the names that all fine-tuning here shares."""
        own = {f.name for f in dataclasses.fields(self)} - {"num_train_epochs"}
        shared = [f.name for f in dataclasses.fields(FineTuningConfig) if f.name in own]
        values = {name: getattr(self, name) for name in shared} | {
            "data_path": self.dataset,
            "model_name_or_path": self.policy[0],
            "max_seq_len": self.max_length,
            "num_warmup_steps": self.warmup_steps,
            "dtype": self.dtype,
            "only_optimize_lora": self.lora_dim > 0,
            "lora_learning_rate": adapter_learning_rate(self) if self.lora_dim else None,
        }
        return FineTuningConfig(**values)
