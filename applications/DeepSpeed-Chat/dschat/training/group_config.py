"""The settings of GRPO and RLOO with several references, and what the trainer makes of them."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from dschat.config import flag, require
from dschat.errors import UserError
from dschat.training.algorithm_flags import QUANTIZATIONS, RESIDENCIES
from dschat.training.huggingface_flags import HuggingFaceFlags
from dschat.training.online_config import OnlineConfig
from dschat.training.penalty_config import DivergenceFlags, WassersteinFlags
from dschat.training.reference_config import (
    REPLACED_MULTI_REFERENCE_FLAGS,
    ReferenceFlags,
    reference_weights,
)

PENALTIES = ["kl", "f_divergence", "wasserstein", "sinkhorn_divergence"]
REPLACED_GROUP_FLAGS = REPLACED_MULTI_REFERENCE_FLAGS | {
    "logging_steps": "every step is written to metrics.jsonl. Remove the flag",
    "beta_kl": "the strength of the penalty is --gamma",
    "epsilon_low": "the lower half-width of the clip range is --clip_range",
    "scale_reward": "use --scale_rewards",
    "use_vllm": "generation runs on the trained weights themselves. Remove the flag",
    "reward_funcs": "the reward is that of checked answers; its parts have weights, such as "
    "--answer_reward",
}


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
    "dtype": "bf16/--fp16",
}


@contextlib.contextmanager
def own_flag_names(config: MultiReferenceConfig) -> Iterator[None]:
    """Errors of the online trainer inside name the flags that this script's user gave."""
    names = FLAG_NAMES if config.refs else {**FLAG_NAMES, "refs": "ref_a/--ref_b"}
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
        """As many as make `max_steps` optimiser steps, over as many epochs as that takes."""
        if self.max_steps < 0:
            return super().planned_iterations(n_prompts, prompts_per_iteration)
        return -(-self.max_steps // self.ppo_epochs)  # one step per pass, see `online`


@dataclass
class MultiReferenceConfig(ReferenceFlags, HuggingFaceFlags, DivergenceFlags, WassersteinFlags):
    """gsm8k_grpo.py: checked answers as the reward, several references to stay near."""

    gamma: float = flag(0.1, "Strength of the penalty.")
    penalty: str = flag(
        "kl",
        "What holds the policy near its references: kl (as --kl_type says), or sum_k w_k D(policy, "
        "ref_k) with D an f_divergence (--f_div), wasserstein (--transport) or "
        "sinkhorn_divergence.",
        choices=PENALTIES,
    )
    f_div_form: str = flag(
        "gradient",
        "gradient: the first variation, whose policy gradient is that of the divergence itself. "
        "value: the estimate f(x)/x at the sampled token, clipped at 2.5.",
        choices=["value", "gradient"],
    )
    fkl_estimator: str = flag(
        "samples",
        "--kl_type fkl: samples: minus the log-probability of responses drawn from the references, "
        "exact for sum_k w_k KL(ref_k || policy) over whole responses. per_state: the forward KL "
        "from the mixture of references at the policy's own states, a surrogate.",
        choices=["samples", "per_state"],
    )
    reference_samples: int = flag(
        1, "Responses drawn from the references per prompt, once before training (samples)."
    )
    reference_residency: str = flag(
        "all",
        "Where references are while they are not used: all (on the device), cpu (in the host's "
        "memory), one (on disk: loaded one at a time for every scoring).",
        choices=RESIDENCIES,
    )
    reference_quantization: str | None = flag(
        None,
        "Load references in 8 or 4 bits (needs the package bitsandbytes).",
        choices=QUANTIZATIONS,
    )
    # Data and model
    dataset: list[str] = flag(
        ["gsm8k"],
        "gsm8k, or local files or folders with the columns question and answer ('... #### 72').",
    )
    data_output_path: str | None = flag(
        None, "Folder for prepared data, kept for the next run; unset: data/ in the output folder."
    )
    model: str | None = flag(
        None, "The policy to start from; unset: ref_a, or the first of --refs."
    )
    output_dir: str | None = flag(None, "Folder for the model, metrics and settings. Required.")
    model_out: str | None = flag(None, "Another name of --output_dir.")
    end_of_conversation_token: str | None = flag(
        None, "Token that ends a response; unset: the tokenizer's own end token."
    )
    pad_token: str | None = flag(None, "Token to pad with, for tokenizers that name none.")
    lora_dim: int = flag(0, "Rank of LoRA adapters, which are then all that is trained; 0: none.")
    lora_module_name: str = flag(
        "layers.", "Linear layers whose name contains this text get an adapter."
    )
    # Algorithm
    algorithm: str = flag(
        "grpo", "grpo, or rloo (leave-one-out baseline).", choices=["grpo", "rloo"]
    )
    num_generations: int = flag(8, "Responses per prompt, a group.")
    num_iterations: int = flag(1, "Passes over an iteration's responses.")
    scale_rewards: bool = flag(
        False,
        "grpo: divide advantages, penalties included, by the standard deviation of the group's "
        "rewards.",
    )
    clip_range: float = flag(0.2, "Probability ratios are clipped to 1 minus this and 1 plus it.")
    epsilon_high: float | None = flag(
        None, "The upper half-width of that interval, where it differs."
    )
    loss_normalization: str = flag(
        "token",
        "token: every token of the global batch weighs the same. sequence: every response does.",
        choices=["token", "sequence"],
    )
    temperature: float = flag(
        1.0, "Sampling temperature; log-probabilities and penalties are of the tempered policies."
    )
    max_prompt_length: int = flag(
        512, "Prompts longer than this many tokens are left out (and counted)."
    )
    max_completion_length: int = flag(256, "Responses stop at this many tokens.")
    per_device_train_batch_size: int = flag(4, "Responses per rank and micro-batch.")
    gradient_accumulation_steps: int = flag(8, "Micro-batches per optimiser step.")
    generation_batch_size: int | None = flag(
        None,
        "Responses sampled at a time per rank; unset: all of an optimiser step "
        "(per_device_train_batch_size x gradient_accumulation_steps).",
    )
    # Rewards
    answer_reward: float = flag(2.0, "Reward for the right number.")
    integer_reward: float = flag(0.5, "Reward for an answer that is an integer.")
    strict_format_reward: float = flag(0.5, "Reward for the exact format.")
    soft_format_reward: float = flag(0.5, "Reward for all tags in their order.")
    tag_reward: float = flag(0.125, "Reward for each of the four tags that occurs once.")
    # Evaluation and output
    eval_steps: int = flag(
        0,
        "Measure accuracy on the test part every so many optimiser steps; 0: before and after "
        "training only.",
    )
    eval_samples: int | None = flag(None, "At most so many test problems; unset: all.")
    eval_batch_size: int = flag(64, "Test problems per rank at a time.")
    pass_k: list[int] = flag(
        [1, 4],
        "The k of pass@k; as many responses as the largest are sampled per test problem. 0: greedy "
        "accuracy only.",
    )
    save_steps: int = flag(
        0,
        "Save the model to output_dir/step-N/actor every so many optimiser steps (N iterations); "
        "0: only at the end, to output_dir.",
    )
    print_answers: bool = flag(False, "Print a prompt and its response at every step.")

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
        for name in ("eval_steps", "save_steps"):
            value = getattr(self, name)
            require(
                value >= 0 and value % self.num_iterations == 0,
                f"--{name} {value}: expected a multiple of --num_iterations "
                f"{self.num_iterations}, the optimiser steps of an iteration.",
            )
        require(
            all(k >= 1 for k in self.pass_k) or self.pass_k == [0],
            f"--pass_k {' '.join(map(str, self.pass_k))}: expected numbers of 1 or more, or 0.",
        )
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
            self.online().validate()

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
            self._only(field.name, self.penalty == "f_divergence", "--penalty f_divergence")
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
        config = GroupTrainingConfig(
            penalty=penalty,
            max_steps=self.max_steps,
            data_path=self.dataset,
            data_split="0,0,1",
            data_output_path=self.data_output_path,
            max_prompt_seq_len=self.max_prompt_length,
            max_answer_seq_len=self.max_completion_length,
            actor_model_name_or_path=self.policy,
            end_of_conversation_token=self.end_of_conversation_token,
            pad_token=self.pad_token,
            per_device_generation_batch_size=self.generation_batch_size or step,
            per_device_training_batch_size=self.per_device_train_batch_size,
            ppo_epochs=self.num_iterations,
            num_train_epochs=self.num_train_epochs,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            refs=[path for path, _ in references],
            ref_weights=[weight for _, weight in references],
            reference_residency=self.reference_residency,
            reference_quantization=self.reference_quantization,
            algorithm=self.algorithm,
            num_generations=self.num_generations,
            scale_rewards=self.scale_rewards,
            kl_ctl=self.coefficient,
            clip_reward_value=0.0,
            clip_range=self.clip_range,
            epsilon_high=self.epsilon_high,
            loss_normalization=self.loss_normalization,
            temperature=self.temperature,
            actor_learning_rate=self.learning_rate,
            actor_weight_decay=self.weight_decay,
            lr_scheduler_type=self.lr_scheduler_type,
            num_warmup_steps=self.warmup_steps,
            warmup_ratio=self.warmup_ratio,
            actor_lora_dim=self.lora_dim,
            actor_lora_module_name=self.lora_module_name,
            actor_lora_learning_rate=self.learning_rate if self.lora_dim else None,
            only_optimize_lora=self.lora_dim > 0,
            dtype=self.dtype,
            actor_zero_stage=self.zero_stage,
            offload=self.offload,
            enable_zero3_generation_gather=self.zero_stage == 3,
            actor_gradient_checkpointing=self.gradient_checkpointing,
            output_dir=self.output_dir or self.model_out,
            seed=self.seed,
            enable_tensorboard=self.report_to == "tensorboard",
            print_answers=self.print_answers,
            local_rank=self.local_rank,
            deepspeed_config=self.deepspeed_config,
            f_div="fkl" if fkl else self.f_div,
            f_div_form="gradient" if fkl else self.f_div_form,
            **{name: getattr(self, name) for name in ("f_div_alpha", "f_div_low_var")},
            kl_estimator=self.kl_estimator,
            transport=transport,
            **{
                f.name: getattr(self, f.name)
                for f in dataclasses.fields(WassersteinFlags)
                if f.name != "transport"
            },
        )
        # The trainer counts generation batches.
        iterations = self.save_steps // self.num_iterations
        return dataclasses.replace(config, save_steps=iterations * config.generation_rounds())
