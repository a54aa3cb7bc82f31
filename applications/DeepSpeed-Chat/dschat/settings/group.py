"""The settings of GRPO and RLOO with several references, and what the trainer makes of them."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from dschat.errors import UserError
from dschat.settings.answers import check_forms
from dschat.settings.command_line import require
from dschat.settings.group_flags import MultiReferenceFlags
from dschat.settings.online import OnlineConfig
from dschat.settings.penalty import DivergenceFlags, WassersteinFlags
from dschat.settings.references import reference_weights
from dschat.settings.supervised import adapter_learning_rate

# The trainer's flags by their names in this script, for messages.
FLAG_NAMES = {
    "data_path": "dataset",
    "actor_model_name_or_path": "model",
    "max_prompt_seq_len": "max_prompt_length",
    "max_answer_seq_len": "max_completion_length",
    "per_device_generation_batch_size": "generation_batch_size",
    "per_device_training_batch_size": "per_device_train_batch_size",
    "ppo_epochs": "num_iterations",
    "kl_ctl": "gamma",
    "actor_learning_rate": "learning_rate",
    "actor_weight_decay": "weight_decay",
    "num_warmup_steps": "warmup_steps",
    "actor_lora_dim": "lora_dim",
    "actor_lora_module_name": "lora_module_name",
    "actor_zero_stage": "zero_stage",
    "actor_gradient_checkpointing": "gradient_checkpointing",
}

OTHER_MEANING = {"gamma", "num_train_epochs", "save_steps"}
"""Flags of this script whose names are those of other flags of the trainer's."""


@contextlib.contextmanager
def own_flag_names(config: MultiReferenceConfig) -> Iterator[None]:
    """Errors of the online trainer inside name the flags that this script's user gave."""
    names = FLAG_NAMES if config.refs else {**FLAG_NAMES, "refs": "ref_a/--ref_b"}
    if config.model_out is not None:
        names = {**names, "output_dir": "model_out"}
    flags = re.compile(rf"--({'|'.join(sorted(names, key=len, reverse=True))})\b")
    try:
        yield
    except UserError as error:
        message = flags.sub(lambda match: f"--{names[match[1]]}", str(error))
        raise UserError(message) from error


@dataclass
class GroupTrainingConfig(OnlineConfig, DivergenceFlags, WassersteinFlags):
    """What the online trainer is told by `MultiReferenceConfig`; not a command line of its own."""

    penalty: str = "kl"
    epochs: float = 1.0
    max_steps: int = -1

    final_in_output_dir: ClassVar[bool] = True

    @property
    def regularizer(self) -> str:
        """The penalty's name in the regularisers' registry."""
        return self.penalty

    def required(self) -> dict[str, str]:
        """Flags without which there is nothing to do, and what each names."""
        return {"output_dir": "a folder for the results"}

    def planned_iterations(self, n_prompts: int, prompts_per_iteration: int) -> int:
        """As many as make `max_steps` optimiser steps, or `epochs` passes over the prompts."""
        if self.max_steps < 0:
            return max(1, round(n_prompts // prompts_per_iteration * self.epochs))
        return -(-self.max_steps // self.ppo_epochs)  # one step per pass, see `online`


@dataclass
class MultiReferenceConfig(MultiReferenceFlags):
    """gsm8k_grpo.py: checked answers as the reward, several references to stay near."""

    @property
    def policy(self) -> str:
        """The model to start from."""
        return self.model or reference_weights(self)[0][0]

    @property
    def coefficient(self) -> float:
        """Of the token penalty: 0 where the penalty is learnt from samples instead."""
        return 0.0 if self.from_samples else self.gamma

    @property
    def from_samples(self) -> bool:
        """Whether the penalty is the forward KL estimated from the references' samples."""
        return self.penalty == "kl" and self.kl_type == "fkl" and self.fkl_estimator == "samples"

    def validate(self) -> None:
        """Refuse values that cannot be meant; raises `UserError`."""
        reference_weights(self)
        require(
            (self.output_dir is None) != (self.model_out is None),
            "Give one folder for the results: --output_dir FOLDER or --model_out FOLDER.",
        )
        self.validate_training()
        self._validate_penalty_flags()
        require(
            self.num_iterations >= 1,
            f"--num_iterations {self.num_iterations}: expected 1 or more.",
        )
        for name in ("eval_steps", "save_steps", "max_steps"):
            value = getattr(self, name)
            require(
                value == -1 or (value >= 0 and value % self.num_iterations == 0),
                f"--{name} {value}: expected a multiple of --num_iterations "
                f"{self.num_iterations}, the optimiser steps of an iteration.",
            )
        require(
            all(k >= 1 for k in self.pass_k) or self.pass_k == [0],
            f"--pass_k {' '.join(map(str, self.pass_k))}: expected numbers of 1 or more, or 0.",
        )
        self.check_lora_flags()
        check_forms(self.answer_extraction)
        require(self.few_shot >= 0, f"--few_shot {self.few_shot}: expected 0 or more.")
        for name in ("eval_samples", "eval_batch_size", "generation_batch_size"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"--{name} {value}: expected 1 or more.")
        step = self.per_device_train_batch_size * self.gradient_accumulation_steps
        require(
            self.generation_batch_size is None or step % self.generation_batch_size == 0,
            f"--generation_batch_size {self.generation_batch_size}: expected a divisor of "
            f"--per_device_train_batch_size x --gradient_accumulation_steps = {step}.",
        )
        with own_flag_names(self):
            online = self.online()
            online.validate()
            if online.penalty == "f_divergence":
                DivergenceFlags.validate_penalty(online)
            if online.penalty == "wasserstein":
                WassersteinFlags.validate_penalty(online)

    def _validate_penalty_flags(self) -> None:
        """Flags of penalties that are not used would do nothing."""
        require(self.gamma >= 0, f"--gamma {self.gamma}: expected 0 or more.")
        require(
            1 <= self.reference_samples <= self.num_generations,
            f"--reference_samples {self.reference_samples}: expected 1 to --num_generations "
            f"{self.num_generations}.",
        )
        require(
            self.kl_type == "rkl" or self.penalty == "kl",
            f"--kl_type fkl with --penalty {self.penalty}: the forward KL belongs to --penalty kl.",
        )
        fkl = self.penalty == "kl" and self.kl_type == "fkl"
        self._only("fkl_estimator", fkl, "--kl_type fkl")
        self._only("reference_samples", self.from_samples, "--kl_type fkl, estimated from samples")
        require(
            not fkl or self.from_samples or self.reference_residency == "all",
            "--fkl_estimator per_state needs all references at once: use "
            "--reference_residency all.",
        )
        for field in dataclasses.fields(DivergenceFlags):
            if field.name != "kl_estimator":
                self._only(field.name, self.penalty == "f_divergence", "--penalty f_divergence")
        measured = self.penalty == "f_divergence" or (self.penalty == "kl" and not fkl)
        self._only("kl_estimator", measured, "reverse KL")
        for field in dataclasses.fields(WassersteinFlags):
            transport = self.penalty in ("wasserstein", "sinkhorn_divergence")
            self._only(field.name, transport, "a transport --penalty")
        if self.penalty == "sinkhorn_divergence":
            require(
                self.transport == "published",
                "--transport belongs to --penalty wasserstein. Remove it.",
            )

    def _only(self, name: str, used: bool, where: str) -> None:
        field = next(f for f in dataclasses.fields(self) if f.name == name)
        require(
            used or getattr(self, name) == field.default,
            f"--{name} belongs to {where}. Remove it.",
        )

    def online(self) -> GroupTrainingConfig:
        """These settings as the online trainer knows them."""
        references = reference_weights(self)
        fkl = self.penalty == "kl" and self.kl_type == "fkl"
        penalty = "f_divergence" if fkl else self.penalty
        transport = self.transport
        if penalty == "sinkhorn_divergence":
            penalty, transport = "wasserstein", "sinkhorn_divergence"
        step = self.per_device_train_batch_size * self.gradient_accumulation_steps
        own = {f.name for f in dataclasses.fields(self)} - OTHER_MEANING
        shared = [f.name for f in dataclasses.fields(GroupTrainingConfig) if f.name in own]
        values = {name: getattr(self, name) for name in shared}
        values |= {name: getattr(self, theirs) for name, theirs in FLAG_NAMES.items()}
        values |= {
            "penalty": penalty,
            "transport": transport,
            "f_div": "fkl" if fkl else self.f_div,
            "f_div_form": "gradient" if fkl else self.f_div_form,
            "kl_ctl": self.coefficient,
            "clip_reward_value": 0.0,
            "data_split": "0,0,1",
            "actor_model_name_or_path": self.policy,
            "refs": [path for path, _ in references],
            "ref_weights": [weight for _, weight in references],
            "per_device_generation_batch_size": self.generation_batch_size or step,
            "epochs": self.num_train_epochs,
            "actor_lora_learning_rate": adapter_learning_rate(self) if self.lora_dim else None,
            "only_optimize_lora": self.lora_dim > 0,
            "dtype": self.dtype,
            # vLLM is sent one gathered weight at a time.
            "enable_zero3_generation_gather": (
                self.zero_stage == 3 and self.generation_backend != "vllm"
            ),
            "enable_tensorboard": self.report_to == "tensorboard",
            "output_dir": self.output_dir or self.model_out,
        }
        config = GroupTrainingConfig(**values)
        # The trainer counts generation batches.
        iterations = self.save_steps // self.num_iterations
        return dataclasses.replace(config, save_steps=iterations * config.generation_rounds())
