"""The settings of step 3: DeepSpeed-Chat's and MA-RLHF's flags, with what each does.

Only the standard library and `dschat.config` are imported, so that `--help` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dschat.config import flag, require
from dschat.training.online_checks import require_partners, require_ranges
from dschat.training.step12_config import SCHEDULERS

F_DIVERGENCES = ["rkl", "fkl", "js", "alpha", "tv", "chi"]
KL_ESTIMATORS = ["k1", "k2", "k3", "exact"]


@dataclass
class OnlineConfig:
    """What every online run (PPO) has, whatever its penalty and its reward.

    Attributes:
        regularizer: the penalty's name in the regularisers' registry, named by the subclass.
    """

    regularizer: ClassVar[str]

    # Data
    data_path: list[str] = flag(
        ["Dahoas/rm-static"],
        "Names of data sets, or paths of local files or folders with the same columns; several are "
        "blended.",
    )
    data_split: str = flag(
        "2,4,4", "How the training rows are divided between steps 1, 2 and 3, as proportions."
    )
    data_output_path: str | None = flag(
        None,
        "Folder for prepared data and tables, kept for the next run; unset: data/ in output_dir.",
    )
    max_prompt_seq_len: int = flag(
        256, "Prompts longer than this many tokens are left out (and counted)."
    )
    max_answer_seq_len: int = flag(256, "Responses stop at this many tokens.")
    # Models
    actor_model_name_or_path: str | None = flag(
        None, "The policy to start from and to stay near: step 1's output. Required."
    )
    critic_model_name_or_path: str | None = flag(
        None, "The reward model, which the critic starts from as well: step 2's output. Required."
    )
    num_padding_at_beginning: int = flag(
        0, "Pad tokens that every text starts with, as OPT models (1) were trained."
    )
    end_of_conversation_token: str | None = flag(
        None, "Token that ends a response; unset: the tokenizer's own end token."
    )
    add_eot_token: bool = flag(
        False, "Add end_of_conversation_token to the vocabulary if it is not there."
    )
    pad_token: str | None = flag(None, "Token to pad with, for tokenizers that name none.")
    # Batches
    per_device_generation_batch_size: int = flag(16, "Prompts per rank and generation batch.")
    per_device_training_batch_size: int = flag(16, "Responses per rank and micro-batch.")
    generation_batches: int = flag(
        1,
        "Generation batches per iteration. More are made where gradient accumulation needs more "
        "micro-batches: one optimiser step never mixes responses of two policies.",
    )
    ppo_epochs: int = flag(1, "Passes over the responses of an iteration.")
    num_train_epochs: int = flag(1, "Passes over the prompts.")
    gradient_accumulation_steps: int = flag(1, "Micro-batches per optimiser step.")
    # Optimisers
    actor_learning_rate: float = flag(9.65e-6, "Highest learning rate of the actor's AdamW.")
    critic_learning_rate: float = flag(5e-6, "Highest learning rate of the critic's AdamW.")
    actor_weight_decay: float = flag(0.0, "Weight decay of the actor's matrices.")
    critic_weight_decay: float = flag(0.0, "Weight decay of the critic's matrices.")
    lr_scheduler_type: str = flag(
        "cosine", "Course of the learning rates after the warm-up.", choices=SCHEDULERS
    )
    num_warmup_steps: int = flag(0, "Optimiser steps of linear warm-up.")
    warmup_ratio: float = flag(0.1, "Warm-up as a share of all optimiser steps, instead.")
    # PPO
    kl_ctl: float = flag(
        0.05,
        "Coefficient of the penalty, whatever the penalty is (the paper's tables are said to use "
        "0.01 on TL;DR and 0.005 on HH-RLHF).",
    )
    clip_reward_value: float = flag(
        2.5, "Scores of responses are clipped to plus or minus this before training (0: not)."
    )
    gamma: float = flag(1.0, "Discount per token.")
    lam: float = flag(0.95, "Lambda of generalised advantage estimation.")
    temperature: float = flag(
        0.8, "Sampling temperature; log-probabilities and penalties are of the tempered policies."
    )
    # Systems
    dtype: str | None = flag(
        None, "fp32, bf16 or fp16; unset: bf16 on a GPU that has it, fp32 elsewhere."
    )
    actor_zero_stage: int = flag(0, "ZeRO stage of the actor: 0, 1, 2 or 3.")
    critic_zero_stage: int = flag(0, "ZeRO stage of the critic: 0, 1, 2 or 3.")
    offload: bool = flag(
        False, "Keep the optimisers' states (ZeRO 3: parameters too) in CPU memory."
    )
    offload_reference_model: bool = flag(
        False, "Reference and reward model wait in CPU memory while they are not used."
    )
    actor_gradient_checkpointing: bool = flag(
        False, "Compute the actor's activations again in the backward pass: less memory, more time."
    )
    critic_gradient_checkpointing: bool = flag(False, "The same for the critic.")
    actor_dropout: float | None = flag(
        None,
        "Every dropout probability of the actor; unset: its own (0.0: PPO's ratios start at 1).",
    )
    critic_dropout: float | None = flag(None, "The same for the critic.")
    actor_lora_dim: int = flag(0, "Rank of the actor's LoRA adapters; 0: none. Merged when saved.")
    actor_lora_module_name: str = flag(
        "decoder.layers.", "Linear layers whose name contains this text get an adapter."
    )
    actor_lora_learning_rate: float | None = flag(
        None, "Learning rate of the actor's adapters; unset: 5e-4."
    )
    critic_lora_dim: int = flag(0, "Rank of the critic's LoRA adapters; 0: none.")
    critic_lora_module_name: str = flag("decoder.layers.", "The same for the critic.")
    critic_lora_learning_rate: float | None = flag(
        None, "Learning rate of the critic's adapters; unset: 5e-4."
    )
    only_optimize_lora: bool = flag(
        False, "Train the adapters only (and the value head); else the base weights train as well."
    )
    enable_zero3_generation_gather: bool = flag(
        False,
        "Under ZeRO 3, gather the actor's weights once per generation (much faster, needs the "
        "memory of the whole actor on every rank).",
    )
    compute_fp32_loss: bool = flag(
        False, "Accepted as users write it; log-probabilities and losses are always in fp32."
    )
    # Macro actions
    termination_condition: str = flag(
        "fixed", "How tokens are grouped into macro actions (only 'fixed' in this version)."
    )
    ngram: int = flag(1, "Tokens in a macro action (only 1, plain PPO, in this version).")
    value_function: str = flag(
        "equal", "Value of a macro action: equal, unit or position; the same for --ngram 1."
    )
    # Output
    output_dir: str | None = flag(None, "Folder for the models, metrics and settings. Required.")
    save_steps: int = flag(
        100, "Save to output_dir/step-N every so many generation batches (0: only at the end)."
    )
    seed: int = flag(1234, "Seed of data order, sampling and new weights.")
    enable_tensorboard: bool = flag(False, "Write TensorBoard logs.")
    tensorboard_path: str | None = flag(
        None, "Folder for them; unset: a folder 'tensorboard' in output_dir."
    )
    print_answers: bool = flag(False, "Print a prompt and its response.")
    print_answers_interval: int = flag(1, "How often, in iterations.")
    enable_test_mode: bool = flag(False, "Stop after test_stop_step iterations.")
    test_stop_step: int = flag(0, "See enable_test_mode.")
    local_rank: int = flag(-1, "Set by the launcher.")
    deepspeed: bool = flag(
        False, "Accepted as DeepSpeed users write it; training always runs under DeepSpeed."
    )
    deepspeed_config: str | None = flag(
        None, "JSON file with further DeepSpeed settings for actor and critic."
    )

    def validate(self) -> None:
        """Refuse values that cannot be meant; raises `UserError`."""
        for name, what in {
            "actor_model_name_or_path": "the policy to start from (step 1's output)",
            "critic_model_name_or_path": "the reward model (step 2's output_dir/step_N)",
            "output_dir": "a folder for the results",
        }.items():
            require(getattr(self, name) is not None, f"Give {what}: --{name} FOLDER.")
        require_ranges(self)
        self._validate_batches()
        self._validate_macro_actions()
        require_partners(self)

    def _validate_macro_actions(self) -> None:
        """Only single tokens are actions; all value functions agree on them."""
        wanted = f"--termination_condition {self.termination_condition} --ngram {self.ngram}"
        require(
            (self.termination_condition, self.ngram) == ("fixed", 1),
            f"{wanted}: macro actions are not in this version; use --termination_condition fixed "
            "--ngram 1 (plain PPO).",
        )
        require(
            self.value_function in ("equal", "unit", "position"),
            f"--value_function {self.value_function!r}: expected equal, unit or position.",
        )

    def _validate_batches(self) -> None:
        """One generation batch is cut into whole micro-batches, those into whole steps."""
        generated, trained = (
            self.per_device_generation_batch_size * self.generation_batches,
            self.per_device_training_batch_size,
        )
        require(
            self.per_device_generation_batch_size % trained == 0,
            f"--per_device_generation_batch_size {self.per_device_generation_batch_size} is no "
            f"multiple of --per_device_training_batch_size {trained}: every generation batch is "
            "cut into whole micro-batches. Change one of the two.",
        )
        micro_batches = generated // trained
        accumulation = self.gradient_accumulation_steps
        require(
            micro_batches % accumulation == 0 or accumulation % micro_batches == 0,
            f"An iteration's {micro_batches} micro-batches per rank (generation batch size x "
            f"generation batches / training batch size) and --gradient_accumulation_steps "
            f"{accumulation} do not divide each other. Change one of them.",
        )

    def generation_rounds(self) -> int:
        """Generation batches per iteration, enough for whole optimiser steps."""
        micro_batches = (
            self.per_device_generation_batch_size
            * self.generation_batches
            // self.per_device_training_batch_size
        )
        return self.generation_batches * max(1, self.gradient_accumulation_steps // micro_batches)


@dataclass
class DivergenceConfig(OnlineConfig):
    """main.py: the policy is held near its reference by KL or an f-divergence."""

    regularizer: ClassVar[str] = "f_divergence"

    f_div: str = flag(
        "rkl",
        "The divergence: rkl (reverse KL), fkl (forward KL), js, alpha, tv (total variation), chi.",
        choices=F_DIVERGENCES,
    )
    f_div_alpha: float = flag(0.5, "The alpha of --f_div alpha, between 0 and 1.")
    f_div_low_var: bool = flag(
        False, "Published low-variance estimators of rkl and fkl (with --f_div_form value)."
    )
    f_div_form: str = flag(
        "value",
        "value: the published estimate f(x)/x at the sampled token, clipped at 2.5. gradient: the "
        "first variation, whose policy gradient is that of the divergence itself, unclipped.",
        choices=["value", "gradient"],
    )
    kl_estimator: str = flag(
        "exact",
        "How the logged reverse KL is measured (with --f_div rkl); the training signal is the same "
        "for all.",
        choices=KL_ESTIMATORS,
    )

    def validate(self) -> None:
        """Refuse values that cannot be meant; raises `UserError`."""
        super().validate()
        require(
            not self.f_div_low_var or (self.f_div in ("rkl", "fkl") and self.f_div_form == "value"),
            "--f_div_low_var exists for --f_div rkl and fkl with --f_div_form value only.",
        )
        require(
            self.f_div != "alpha" or 0 < self.f_div_alpha < 1,
            f"--f_div_alpha {self.f_div_alpha}: expected a number between 0 and 1.",
        )
        require(
            self.kl_estimator == "exact" or (self.f_div == "rkl" and not self.f_div_low_var),
            "--kl_estimator works with --f_div rkl without --f_div_low_var only: the other "
            "divergences are logged exactly.",
        )


@dataclass
class WassersteinConfig(OnlineConfig):
    """main_wpr.py: the policy is held near its reference by a Wasserstein penalty."""

    regularizer: ClassVar[str] = "wasserstein"

    transport: str = flag(
        "published",
        "published: the truncated potential of the paper's code. sinkhorn_divergence: debiased "
        "and normalised so that its policy gradient is that of the divergence; its costs are in "
        "units of the mean token distance.",
        choices=["published", "sinkhorn_divergence"],
    )
    cost_dim: int | None = flag(
        None,
        "k1: mass can move to a token's so many nearest tokens; unset: 512 (published only).",
    )
    cost_type: str = flag(
        "L2",
        "Cost between input embeddings: L2 distance or cos (1 - cosine).",
        choices=["L2", "cos"],
    )
    epsilon: float | None = flag(
        None, "Entropic regularisation; unset: 0.01 (published), 0.05 (sinkhorn_divergence)."
    )
    max_iter: int | None = flag(
        None, "Most Sinkhorn iterations; unset: 10 (published), 200 (sinkhorn_divergence)."
    )
    tol: float | None = flag(
        None,
        "A position stops when u changes by no more; unset: 1e-6 (published). For "
        "sinkhorn_divergence: when the marginals are off by no more; unset: 1e-3.",
    )
    top_k: int = flag(128, "k2: so many most probable tokens of either policy take part.")
    normalize: bool = flag(
        False, "Centre the potential f over the support, as published (published only)."
    )
    block_size: int | None = flag(
        None,
        "Rows in a block when the table of nearest tokens is built; unset: 1024 (published only).",
    )
    gaussian_perturb: float = flag(
        0.0, "Share g of Gaussian noise in the embeddings: (1 - g) E + g N(0, 1)."
    )

    def validate(self) -> None:
        """Refuse values that cannot be meant; raises `UserError`."""
        super().validate()
        for name in ("cost_dim", "top_k", "block_size"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"--{name} {value}: expected 1 or more.")
        if self.transport != "published":
            for name in ("cost_dim", "normalize", "block_size"):
                require(
                    not getattr(self, name),
                    f"--{name} belongs to --transport published: the Sinkhorn divergence takes "
                    "all costs on its support. Remove the flag.",
                )
        for name in ("epsilon", "max_iter"):
            value = getattr(self, name)
            require(value is None or value > 0, f"--{name} {value}: expected a number above 0.")
        require(self.tol is None or self.tol >= 0, f"--tol {self.tol}: expected 0 or more.")
        require(
            0 <= self.gaussian_perturb <= 1,
            f"--gaussian_perturb {self.gaussian_perturb}: expected a share from 0 to 1.",
        )
