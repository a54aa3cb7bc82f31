"""The command lines of online training: tables of published flags onto `OnlineConfig`."""

from __future__ import annotations

from dataclasses import dataclass

from dschat.settings.command_line import (
    REPLACED_FLAGS,
    CommandLine,
    Renamed,
    Settings,
    flag,
    require,
)
from dschat.settings.online import WHAT_SCORES, OnlineConfig
from dschat.settings.online_checks import CRITIC_FLAGS

NOT_IN_STEP_3 = [
    *("ref_a", "ref_b", "alpha", "beta", "few_shot", "max_steps"),
    *("eval_steps", "eval_samples", "eval_batch_size", "pass_k"),
]
TRANSPORT = Renamed(
    "regularizer",
    default="published",
    values={"published": "wasserstein", "sinkhorn_divergence": "sinkhorn_divergence"},
    help="published: the truncated potential of the paper's code. sinkhorn_divergence: debiased "
    "and normalised so that its policy gradient is that of the divergence; its costs are in units "
    "of the mean token distance.",
)

PROGRAMS = Renamed("reward", default=["code"], help=f"{WHAT_SCORES}.")

PPO: CommandLine[OnlineConfig] = CommandLine(OnlineConfig, absent=NOT_IN_STEP_3)
"""main.py"""
WPR: CommandLine[OnlineConfig] = CommandLine(
    OnlineConfig, table={"transport": TRANSPORT}, absent=NOT_IN_STEP_3
)
"""main_wpr.py"""
PPO_APPS: CommandLine[OnlineConfig] = CommandLine(
    OnlineConfig, table={"reward": PROGRAMS}, absent=NOT_IN_STEP_3
)
"""main_apps.py"""
WPR_APPS: CommandLine[OnlineConfig] = CommandLine(
    OnlineConfig,
    table={"transport": TRANSPORT, "reward": PROGRAMS},
    absent=NOT_IN_STEP_3,
)
"""main_wpr_apps.py"""


@dataclass
class GroupFlags(Settings):
    """What gsm8k_grpo.py says in other terms than the trainer: the precision, and when to save."""

    bf16: bool = flag(
        False,
        "Train in bfloat16; without --bf16 and --fp16: in float32.",
        group="Memory and precision",
    )
    fp16: bool = flag(False, "Train in float16 with dynamic loss scaling; needs a GPU.")
    save_steps: int = flag(
        0,
        "Save the model to output_dir/step-M/actor every N optimiser steps (M counts "
        "generation batches); 0: only at the end, to output_dir.",
        group="Output",
    )

    def apply(self, config: OnlineConfig) -> None:
        """Set what follows from these flags and from each other.

        Raises:
            UserError: they contradict each other.
        """
        require(not (self.bf16 and self.fp16), "--bf16 and --fp16 contradict each other; give one.")
        for name in ("per_device_training_batch_size", "gradient_accumulation_steps", "ppo_epochs"):
            value = getattr(config, name)
            require(value >= 1, f"{config.flag(name)} {value}: expected 1 or more.")
        config.dtype = "bf16" if self.bf16 else "fp16" if self.fp16 else "fp32"
        config.only_optimize_lora = config.actor_lora_dim > 0
        # vLLM is sent one gathered weight at a time.
        config.enable_zero3_generation_gather = (
            config.actor_zero_stage == 3 and config.generation_backend != "vllm"
        )
        micro_batch = config.per_device_training_batch_size
        step = micro_batch * config.gradient_accumulation_steps
        size = config.per_device_generation_batch_size
        generated = config.flag("per_device_generation_batch_size")
        if size is None:
            config.per_device_generation_batch_size = step
        else:
            require(
                size >= 1 and step % size == 0 and size % micro_batch == 0,
                f"{generated} {size}: expected a multiple of "
                f"{config.flag('per_device_training_batch_size')} {micro_batch} and a divisor of "
                f"{config.flag('per_device_training_batch_size')} x "
                f"{config.flag('gradient_accumulation_steps')} = {step}.",
            )
        for name, value in (
            ("eval_steps", config.eval_steps),
            ("save_steps", self.save_steps),
            ("max_steps", config.max_steps),
        ):
            require(
                value == -1 or (value >= 0 and value % config.ppo_epochs == 0),
                f"--{name} {value}: expected a multiple of {config.flag('ppo_epochs')} "
                f"{config.ppo_epochs}, the optimiser steps of an iteration.",
            )
        # The trainer counts generation batches.
        config.save_steps = self.save_steps // config.ppo_epochs * config.generation_rounds()


GRPO: CommandLine[OnlineConfig] = CommandLine(
    OnlineConfig,
    refused={
        **REPLACED_FLAGS,
        "logging_steps": "every step is written to metrics.jsonl. Remove the flag",
        "beta_kl": "the strength of the penalty is --gamma",
        "epsilon_low": "the lower half-width of the clip range is --clip_range",
        "scale_reward": "use --scale_rewards",
        "use_vllm": "use --generation_backend vllm",
        "reward_funcs": "the reward is that of checked answers; its parts have weights, such as "
        "--answer_reward, or is your own: --reward my_file.py:function",
        "transport": "use --regularizer wasserstein or sinkhorn_divergence",
    },
    table={
        "dataset": Renamed(
            "data_path",
            default=["gsm8k"],
            help="gsm8k, or local files or folders with the columns question and answer "
            "('... #### 72').",
        ),
        "model": Renamed(
            "actor_model_name_or_path",
            help="The policy to start from; unset: ref_a, or the first of --refs.",
        ),
        "output_dir": Renamed("output_dir", aliases=["model_out"]),
        "max_prompt_length": Renamed("max_prompt_seq_len", default=512),
        "max_completion_length": Renamed("max_answer_seq_len", default=256),
        "regularizer": Renamed("regularizer", default="kl", aliases=["penalty"]),
        "gamma": Renamed("kl_ctl", default=0.1, help="Strength of the penalty."),
        "f_div_form": Renamed("f_div_form", default="gradient"),
        "reference_residency": Renamed("reference_residency", default="all"),
        "reward": Renamed("reward", default=["math"], help=f"{WHAT_SCORES}."),
        "rm_name": Renamed(
            "critic_model_name_or_path",
            help="The reward model of --reward reward_model: a folder or a hub name.",
        ),
        "algorithm": Renamed(
            "algorithm",
            default="grpo",
            choices=["grpo", "rloo"],
            help="grpo, or rloo (leave-one-out baseline).",
        ),
        "num_generations": Renamed("num_generations", default=8, help="Responses per prompt."),
        "num_iterations": Renamed("ppo_epochs"),
        "temperature": Renamed("temperature", default=1.0),
        "generation_batch_size": Renamed(
            "per_device_generation_batch_size",
            default=None,
            help="Responses sampled at a time per rank; unset: all of an optimiser step "
            "(per_device_train_batch_size x gradient_accumulation_steps).",
        ),
        "per_device_train_batch_size": Renamed("per_device_training_batch_size", default=4),
        "gradient_accumulation_steps": Renamed("gradient_accumulation_steps", default=8),
        "num_train_epochs": Renamed("num_train_epochs", default=1.0, kind=float),
        "learning_rate": Renamed(
            "actor_learning_rate",
            default=1e-6,
            help="Highest learning rate of AdamW (betas 0.9 and 0.95).",
        ),
        "weight_decay": Renamed(
            "actor_weight_decay", help="Weight decay of matrices; biases and norms have none."
        ),
        "lr_scheduler_type": Renamed("lr_scheduler_type", default="linear"),
        "warmup_steps": "num_warmup_steps",
        "warmup_ratio": Renamed("warmup_ratio", default=0.0),
        "lora_dim": Renamed(
            "actor_lora_dim",
            help="Rank of LoRA adapters, which are then all that is trained; 0: none.",
        ),
        "lora_module_name": Renamed("actor_lora_module_name", default="layers."),
        "lora_learning_rate": Renamed(
            "actor_lora_learning_rate",
            help="Learning rate of the adapters; unset: --learning_rate where it is given, else "
            "5e-4.",
        ),
        "zero_stage": Renamed("actor_zero_stage", help="ZeRO stage of DeepSpeed: 0, 1, 2 or 3."),
        "gradient_checkpointing": Renamed(
            "actor_gradient_checkpointing",
            help="Compute activations again in the backward pass: less memory, more time.",
        ),
        "seed": Renamed("seed", default=42),
    },
    absent=[
        *CRITIC_FLAGS,
        *("num_padding_at_beginning", "add_eot_token"),
        *("unsupervised_dataset_name", "unsupervised_dataset_config_name", "unsup_coef"),
        *("generation_batches", "only_optimize_lora", "dtype", "offload_reference_model"),
        *("enable_zero3_generation_gather", "compute_fp32_loss", "enable_ema", "save_steps"),
        *("print_answers_interval", "enable_test_mode", "test_stop_step"),
    ],
    preset={"data_split": "0,0,1", "clip_reward_value": 0.0, "final_in_output_dir": True},
    own=GroupFlags,
)
"""gsm8k_grpo.py"""
