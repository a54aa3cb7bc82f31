"""The settings of online training: one dataclass, whatever the algorithm, penalty and reward.

A script publishes them under its own flags, see `dschat.settings.online_scripts`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from dschat.settings.algorithms.dynamic_sampling import DynamicSamplingFlags
from dschat.settings.algorithms.loss_flags import LossFlags
from dschat.settings.command_line import Settings, flag, require
from dschat.settings.flags import RARELY_NEEDED, chat_template_flag, plugin_flag, with_parts
from dschat.settings.online_checks import GROUPED, check
from dschat.settings.parts import ADVANTAGES, POLICY_LOSSES, REWARDS
from dschat.settings.penalties import REGULARIZERS, KLSettings
from dschat.settings.references import REFERENCES, ReferenceFlags, reference_weights
from dschat.settings.regularizers.published import has_references
from dschat.settings.regularizers.reference_schedule import ReferenceScheduleFlags
from dschat.settings.rewards import CHECKED_ANSWERS, REWARD_MODEL, names_reward
from dschat.settings.rollout.backends import BackendFlags
from dschat.settings.rollout.correction import RolloutCorrectionFlags
from dschat.settings.rollout.stops import StopFlags
from dschat.settings.supervised import SCHEDULERS, TrainingFlags

ALGORITHMS = ["ppo", "grpo", "rloo"]
DEFAULT_GROUP = 8
WHAT_SCORES = (
    "What scores responses: names, or functions of your own, my_file.py:function, each with "
    ":weight where several are summed"
)
PARSERS = ["stanza", "link-grammar"]
"""The names that `dschat.scoring.parsing.parsers.open_parser` knows."""


@dataclass
class OnlineFlags(Settings):
    """The flags of online training but those of every training script, by subject."""

    data_path: list[str] = flag(
        ["Dahoas/rm-static"],
        "Names of data sets, or paths of local files or folders with the same columns; several are "
        "blended.",
        group="Data and models",
    )
    data_split: str = flag(
        "2,4,4", "How the training rows are divided between steps 1, 2 and 3, as proportions."
    )
    data_output_path: str | None = flag(
        None,
        "Folder for prepared data and tables, kept for the next run; unset: data/ in output_dir.",
    )
    apply_chat_template: bool = chat_template_flag()
    few_shot: int = flag(
        0,
        "Worked examples before every question, in training and evaluation: the first rows of the "
        "training part, which are then not trained on.",
    )
    max_prompt_seq_len: int = flag(256, "Prompts longer than this many tokens are skipped.")
    max_answer_seq_len: int = flag(256, "Responses stop at this many tokens.")
    actor_model_name_or_path: str | None = flag(
        None,
        "The policy to start from: step 1's output. Unset: the first reference, where one is "
        "given. Required without.",
    )
    critic_model_name_or_path: str | None = flag(
        None,
        "The reward model, which the critic starts from as well: step 2's output. Required, but "
        "where other rewards take its place: then it is what the critic starts from, a reward "
        "model or a language model, which gets a value head of zeros; unset: the policy's model.",
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
    output_dir: str | None = flag(None, "Folder for the models, metrics and settings. Required.")

    regularizer: str = flag(
        "f_divergence",
        "What keeps the policy near its references or, without any, near the model that it "
        "starts from.",
        registry=REGULARIZERS,
        group=REFERENCES,
    )
    kl_ctl: float = flag(
        0.05,
        "Coefficient of the penalty, whatever the penalty is (the paper's tables are said to use "
        "0.01 on TL;DR and 0.005 on HH-RLHF).",
    )
    reference_residency: str | None = flag(
        None,
        "Where references are while they are not used: all (on the device), cpu (in the host's "
        "memory), one (on disk: loaded one at a time for every scoring). Unset: all, or cpu where "
        "they are offloaded.",
        choices=["all", "cpu", "one"],
    )
    reference_quantization: str | None = flag(
        None,
        "Load references in 8 or 4 bits (needs the package bitsandbytes).",
        choices=["8bit", "4bit"],
    )

    reward: list[str] | None = flag(
        None,
        f"{WHAT_SCORES}; unset: the reward model.",
        registry=REWARDS,
        repeatable=True,
        group="Reward",
    )
    clip_reward_value: float = flag(
        2.5, "Scores of responses are clipped to plus or minus this before training (0: not)."
    )
    reward_timeout: float | None = flag(
        None,
        "Seconds after which a call of a reward function of yours (a rank's responses of one "
        "generation batch) is ended, and the run with it, by an error that names it. Unset: no "
        "limit, since a judge over a network may rightly take long. Rewards that all ranks compute "
        "together have no limit.",
    )
    plugin: list[str] | None = plugin_flag(
        "regularizers, rewards, advantages, policy losses or data schemas"
    )

    algorithm: str = flag(
        "ppo",
        "ppo: a critic and GAE. grpo: the reward minus its group's mean, no critic. rloo: minus "
        "the mean of the group's other responses.",
        choices=ALGORITHMS,
        group="Algorithm",
    )
    advantage: str | None = flag(
        None,
        "An estimator of advantages instead of the algorithm's (gae is that of ppo).",
        registry=ADVANTAGES,
    )
    policy_loss: str = flag(
        "ppo_clip", "The policy's loss on these advantages.", registry=POLICY_LOSSES
    )
    num_generations: int | None = flag(
        None, "Responses per prompt, a group; unset: 1 for ppo, 8 for grpo and rloo."
    )
    scale_rewards: bool = flag(
        False,
        "grpo: divide advantages, penalties included, by the standard deviation of the group's "
        "rewards (where that is below 0.01, by 0.01 to 1; by 1 where all are equal).",
    )
    clip_range: float = flag(0.2, "Probability ratios are clipped to 1 minus this and 1 plus it.")
    clip_range_high: float | None = flag(
        None,
        "The upper half-width of that interval, where it differs.",
        aliases=["epsilon_high"],
    )
    entropy_coef: float = flag(
        0.0,
        "Coefficient of an entropy bonus: the actor's loss is lowered by this times the mean "
        "entropy, in nats, of the tempered policy at the step's response tokens, over the whole "
        "vocabulary; 0: none (the entropy is logged all the same).",
    )
    gamma: float = flag(1.0, "Discount per token (ppo, reinforce++).")
    lam: float = flag(0.95, "Lambda of generalised advantage estimation (ppo).")
    unsupervised_dataset_name: str | None = flag(
        None,
        "Text to train on as well, as many blocks of max_prompt_seq_len + max_answer_seq_len "
        "tokens as responses: a local .txt, .jsonl, .json or .parquet file or folder with a column "
        "text, or a data set of the hub; unset: none.",
    )
    unsupervised_dataset_config_name: str | None = flag(
        None, "Its configuration on the hub (or the subfolder of a local folder)."
    )
    unsup_coef: float = flag(27.8, "Coefficient of that loss, the mean -log pi of a token.")

    termination_condition: str = flag(
        "fixed",
        "How tokens are grouped into macro actions (MA-RLHF, ppo): fixed, every --ngram tokens; "
        "randomized, lengths of 1, 2, 3, 5 and 10 in random order, each --repeat_times times; ppl, "
        "a new one before each rise of the reference's perplexity from token to token; parsing, "
        "constituents of fewer than --parser_cutoff tokens.",
        choices=["fixed", "randomized", "ppl", "parsing"],
        group="Macro actions",
    )
    ngram: int = flag(1, "Tokens in a macro action (fixed); 1: plain PPO.")
    repeat_times: int = flag(3, "How often each length comes (randomized).")
    parser: str = flag(
        "stanza",
        "What finds the constituents of a response (parsing; English): stanza, the package and its "
        "models; link-grammar, the program of that name, quick and with nothing to download.",
        choices=PARSERS,
    )
    parser_cutoff: int = flag(
        5, "Constituents of fewer tokens are one macro action (parsing); larger ones are divided."
    )
    value_function: str = flag(
        "equal",
        "Value of a macro action from its tokens' values: equal, their mean; unit, the last one; "
        "position, weighted by 1, 1/2, 1/3, ... (published: these look at states that the macro "
        "action itself leads to, which biases the gradient until the critic is right); first, the "
        "value of the state before it, without that bias.",
        choices=["equal", "unit", "position", "first"],
    )

    temperature: float = flag(
        0.8,
        "Sampling temperature; log-probabilities and penalties are of the tempered policies.",
        group="Sampling and batches",
    )
    per_device_generation_batch_size: int = flag(16, "Responses per rank and generation batch.")
    per_device_training_batch_size: int = flag(16, "Responses per rank and micro-batch.")
    generation_batches: int = flag(
        1,
        "Generation batches per iteration. More are made where gradient accumulation needs more "
        "micro-batches: one optimiser step never mixes responses of two policies.",
    )
    ppo_epochs: int = flag(1, "Passes over the responses of an iteration.")
    num_train_epochs: int = flag(1, "Passes over the prompts.")
    max_steps: int = flag(-1, "Optimiser steps, instead of epochs; -1: as the epochs say.")
    gradient_accumulation_steps: int = flag(1, "Micro-batches per optimiser step.")

    actor_learning_rate: float = flag(
        9.65e-6, "Highest learning rate of the actor's AdamW.", group="Optimisation"
    )
    critic_learning_rate: float = flag(5e-6, "Highest learning rate of the critic's AdamW.")
    actor_weight_decay: float = flag(0.0, "Weight decay of the actor's matrices.")
    critic_weight_decay: float = flag(0.0, "Weight decay of the critic's matrices.")
    lr_scheduler_type: str = flag(
        "cosine", "Course of the learning rates after the warm-up.", choices=SCHEDULERS
    )
    num_warmup_steps: int = flag(0, "Optimiser steps of linear warm-up.")
    warmup_ratio: float = flag(0.1, "Warm-up as a share of all optimiser steps, instead.")
    actor_dropout: float | None = flag(
        None,
        "Every dropout probability of the actor; unset: its own. 0: and nothing else that is "
        "random in training (skipped layers, noise of routers), so that ratios start at 1.",
    )
    critic_dropout: float | None = flag(None, "The same for the critic.")
    enable_ema: bool = flag(
        False,
        "Keep an exponential moving average of the actor's weights, 0.992 per optimiser step in "
        "fp32, and save it as step-N/actor_ema.",
    )

    actor_lora_dim: int = flag(
        0, "Rank of the actor's LoRA adapters; 0: none. Merged when saved.", group="Adapters"
    )
    actor_lora_module_name: str = flag(
        "decoder.layers.", "Linear layers whose name contains this text get an adapter."
    )
    actor_lora_learning_rate: float | None = flag(
        None,
        "Learning rate of the actor's adapters; unset: --actor_learning_rate where it is given, "
        "else 5e-4.",
    )
    critic_lora_dim: int = flag(0, "Rank of the critic's LoRA adapters; 0: none.")
    critic_lora_module_name: str = flag("decoder.layers.", "The same for the critic.")
    critic_lora_learning_rate: float | None = flag(
        None,
        "Learning rate of the critic's adapters; unset: --critic_learning_rate where it is given, "
        "else 5e-4.",
    )
    only_optimize_lora: bool = flag(
        False,
        "Train the adapters only (and the value head); else the base weights train as well. The "
        "reference is then the actor with its adapters off, and the reward model the critic with "
        "its adapters off and its first head: neither is loaded a second time (but for a "
        "reference that moves).",
    )

    dtype: str | None = flag(
        None,
        "fp32, bf16 or fp16; unset: bf16 on a GPU that has it, fp32 elsewhere.",
        group="Memory and precision",
    )
    frozen_dtype: str | None = flag(
        None,
        "fp32, bf16 or fp16 for the models that are not trained: references and reward model, but "
        "for those that are a trained model with its adapters off; unset: the policy's. In another "
        "dtype a reference that is the policy's start differs from it by rounding, and the "
        "divergence does not start at exactly 0.",
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
    enable_zero3_generation_gather: bool = flag(
        False,
        "Under ZeRO 3, gather the actor's weights once per generation (much faster, needs the "
        "memory of the whole actor on every rank).",
    )
    align_overflow: bool = flag(
        False,
        "fp16: where the gradients of actor or critic overflow, both skip the step. (In bf16 and "
        "fp32 a gradient that is not finite always stops both.)",
    )

    seed: int = flag(1234, "Seed of data order, sampling and new weights.", group="Output")
    save_steps: int = flag(
        100, "Save to output_dir/step-N every N generation batches (0: only at the end)."
    )
    eval_steps: int = flag(
        0,
        "Measure the accuracy of answers on the test part every N optimiser steps; 0: before "
        "and after training only.",
    )
    eval_samples: int | None = flag(None, "At most N test problems; unset: all.")
    eval_batch_size: int = flag(64, "Test problems per rank at a time.")
    pass_k: list[int] = flag(
        [1, 4],
        "The k of pass@k; as many responses as the largest are sampled per test problem. 0: greedy "
        "accuracy only.",
    )
    print_answers: bool = flag(False, "Print a prompt and its response.")
    print_answers_interval: int = flag(1, "How often, in iterations.")
    profile_steps: str | None = flag(
        None,
        "A:B: write a torch profiler trace of iterations A to B (counted from 1 as in "
        "metrics.jsonl, both included) of rank 0 to output_dir/profile, for chrome://tracing or "
        "ui.perfetto.dev. Traces grow by tens of MiB per iteration.",
    )
    enable_test_mode: bool = flag(False, "Stop after test_stop_step iterations.")
    test_stop_step: int = flag(0, "See enable_test_mode.")

    compute_fp32_loss: bool = flag(
        False,
        "Accepted as users write it; log-probabilities and losses are always in fp32.",
        group=RARELY_NEEDED,
    )


# The flags of a base are shown after those of the bases behind it.
@dataclass
class OnlineConfig(
    TrainingFlags,
    RolloutCorrectionFlags,
    BackendFlags,
    ReferenceScheduleFlags,
    ReferenceFlags,
    StopFlags,
    DynamicSamplingFlags,
    LossFlags,
    OnlineFlags,
):
    """The settings of a run, with those of its penalty and rewards (`config.epsilon`).

    Attributes:
        final_in_output_dir: the trained policy is a model folder at output_dir itself, and not at
            step-N; no flag, a script decides it.
    """

    derived: ClassVar[tuple[str, ...]] = (
        "actor_model_name_or_path",
        "critic_model_name_or_path",
        "per_device_generation_batch_size",
        "actor_lora_learning_rate",
        "critic_lora_learning_rate",
        "rollout_correction",
        "loss_normalization",
        "loss_constant",
    )
    final_in_output_dir: bool = False

    def validate(self) -> None:
        """Fill in what follows from other settings, and refuse what does not fit.

        Raises:
            UserError: says which flag, and what was expected.
        """
        self.validate_parts()
        check(self)
        self.check_stops()
        profiled_iterations(self.profile_steps)

    def flag_name(self, name: str) -> str:
        """As `flag`, without the dashes."""
        return self.flag(name).removeprefix("--")

    @property
    def estimator(self) -> str:
        """The name in `ADVANTAGES` of what estimates advantages."""
        return self.advantage or {"ppo": "gae"}.get(self.algorithm, self.algorithm)

    @property
    def trains_critic(self) -> bool:
        """Whether there is a critic: the settings of the estimator say so (`needs_critic`)."""
        return bool(getattr(ADVANTAGES[self.estimator].settings, "needs_critic", False))

    @property
    def uses_reward_model(self) -> bool:
        """Whether a reward model scores responses; without it the critic may have a new head."""
        return names_reward(self.reward, REWARD_MODEL)

    @property
    def checks_answers(self) -> bool:
        """Whether checked answers are among the rewards: then accuracy is measured too."""
        return names_reward(self.reward, CHECKED_ANSWERS)

    @property
    def penalty(self) -> Any:
        """The settings of the regulariser alone."""
        return self.part("regularizer")

    @property
    def from_samples(self) -> bool:
        """Whether the penalty is the forward KL estimated from the references' samples."""
        return isinstance(self.penalty, KLSettings) and self.penalty.from_samples

    @property
    def of_mixture(self) -> bool:
        """Whether the policy is kept near the references' mixture, not near each of them."""
        return isinstance(self.penalty, KLSettings) and self.penalty.of_mixture

    @property
    def penalty_coefficient(self) -> float:
        """Of the token penalty: 0 where the penalty is a term of the loss, or there is none."""
        in_loss = self.from_samples or getattr(self.penalty, "in_loss", False)
        return self.kl_ctl if has_references(self) and not in_loss else 0.0

    @property
    def sample_coefficient(self) -> float:
        """Of the forward KL estimated from the references' samples."""
        return self.kl_ctl if self.from_samples else 0.0

    def references(self) -> list[tuple[str, float]]:
        """The references in order, each with its weight; empty: the model the actor starts from.

        Raises:
            UserError: they are named in two ways, or their weights are no distribution.
        """
        if self.refs is None and self.ref_a is None and self.ref_b is None:
            require(
                self.ref_weights is None,
                f"{self.flag('ref_weights')} needs the references: add {self.flag('refs')} FOLDER "
                "FOLDER.",
            )
            return []
        is_fkl = isinstance(self.penalty, KLSettings) and self.penalty.kl_type == "fkl"
        return reference_weights(self, "fkl" if is_fkl else "rkl")

    def reference_is_the_policy(self) -> bool:
        """Whether the actor with its adapters off is the reference: no second model is loaded.

        A new token's row is trained beside the adapters (`train_rows`), or the reference moves:
        then there are two models.
        """
        frozen = self.only_optimize_lora and not self.add_eot_token
        frozen = frozen and self.reference_schedule == "fixed"
        lora = self.actor_lora_dim > 0 and frozen
        return lora and has_references(self) and not self.references()

    def reward_is_the_critic(self) -> bool:
        """Whether the critic with its adapters off and its first head is the reward model.

        Then no reward model is loaded.
        """
        frozen = self.only_optimize_lora and not self.add_eot_token
        trained = self.trains_critic and self.uses_reward_model
        return trained and self.critic_lora_dim > 0 and frozen

    def group_size(self) -> int:
        """Responses per prompt."""
        if self.num_generations is not None:
            return self.num_generations
        return DEFAULT_GROUP if self.estimator in GROUPED else 1

    def generation_rounds(self) -> int:
        """Generation batches per iteration, enough for whole optimiser steps."""
        micro_batches = (
            self.per_device_generation_batch_size
            * self.generation_batches
            // self.per_device_training_batch_size
        )
        return self.generation_batches * max(1, self.gradient_accumulation_steps // micro_batches)

    def updates_per_iteration(self) -> int:
        """Optimiser steps of an iteration."""
        per_rank = self.per_device_generation_batch_size * self.generation_rounds()
        micro_batches = per_rank // self.per_device_training_batch_size
        return self.ppo_epochs * micro_batches // self.gradient_accumulation_steps

    def planned_iterations(self, n_prompts: int, prompts_per_iteration: int) -> int:
        """Iterations of the whole run."""
        if self.max_steps >= 0:
            return -(-self.max_steps // self.updates_per_iteration())
        total = max(1, round(n_prompts // prompts_per_iteration * self.num_train_epochs))
        return min(total, self.test_stop_step) if self.enable_test_mode else total


def online_config(**values: Any) -> Any:
    """An `OnlineConfig` with the settings of the chosen penalty and rewards.

    Raises:
        UserError: there is no such part.
    """
    choosers = ("regularizer", "reward", "advantage", "policy_loss", "preset")
    chosen = {name: values[name] for name in choosers if name in values}
    return with_parts(OnlineConfig, **chosen)(**values)


def profiled_iterations(text: str | None) -> range:
    """The iterations that `--profile_steps` names.

    Raises:
        UserError: the text is not A:B with 1 <= A <= B.
    """
    if text is None:
        return range(0)
    found = re.fullmatch(r"(\d+):(\d+)", text)
    first, last = (int(found[1]), int(found[2])) if found else (0, 0)
    require(
        1 <= first <= last,
        f"--profile_steps {text}: expected A:B, iterations counted from 1, both included, such as "
        "3:4.",
    )
    return range(first, last + 1)
