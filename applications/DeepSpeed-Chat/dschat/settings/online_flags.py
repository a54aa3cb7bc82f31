"""The settings that every online run has, by subject: DeepSpeed-Chat's and MA-RLHF's flags."""

from __future__ import annotations

from dataclasses import dataclass

from dschat.settings.command_line import flag
from dschat.settings.supervised import SCHEDULERS


@dataclass
class DataFlags:
    """Prompts and the models that meet them."""

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
    apply_chat_template: bool = flag(
        False,
        "Write prompts that are plain texts with the model's chat template: a dialogue "
        "(Human: ... Assistant:) as its turns, any other text as a user's turn.",
    )
    max_prompt_seq_len: int = flag(
        256, "Prompts longer than this many tokens are left out (and counted)."
    )
    max_answer_seq_len: int = flag(256, "Responses stop at this many tokens.")
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


@dataclass
class PretrainingMixFlags:
    """A language-modelling loss beside the RL loss."""

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


@dataclass
class BatchFlags:
    """How many responses at a time."""

    per_device_generation_batch_size: int = flag(16, "Responses per rank and generation batch.")
    per_device_training_batch_size: int = flag(16, "Responses per rank and micro-batch.")
    generation_batches: int = flag(
        1,
        "Generation batches per iteration. More are made where gradient accumulation needs more "
        "micro-batches: one optimiser step never mixes responses of two policies.",
    )
    ppo_epochs: int = flag(1, "Passes over the responses of an iteration.")
    num_train_epochs: int = flag(1, "Passes over the prompts.")
    gradient_accumulation_steps: int = flag(1, "Micro-batches per optimiser step.")


@dataclass
class OptimizerFlags:
    """Learning rates, dropout and adapters of actor and critic."""

    actor_learning_rate: float = flag(9.65e-6, "Highest learning rate of the actor's AdamW.")
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
        "random in training (layers left out, noise of routers), so that ratios start at 1.",
    )
    critic_dropout: float | None = flag(None, "The same for the critic.")
    actor_lora_dim: int = flag(0, "Rank of the actor's LoRA adapters; 0: none. Merged when saved.")
    actor_lora_module_name: str = flag(
        "decoder.layers.", "Linear layers whose name contains this text get an adapter."
    )
    actor_lora_learning_rate: float | None = flag(
        None,
        "Learning rate of the actor's adapters; unset: --actor_learning_rate where it is given "
        "another value than its default, else 5e-4.",
    )
    critic_lora_dim: int = flag(0, "Rank of the critic's LoRA adapters; 0: none.")
    critic_lora_module_name: str = flag("decoder.layers.", "The same for the critic.")
    critic_lora_learning_rate: float | None = flag(
        None,
        "Learning rate of the critic's adapters; unset: --critic_learning_rate where it is given "
        "another value than its default, else 5e-4.",
    )
    only_optimize_lora: bool = flag(
        False,
        "Train the adapters only (and the value head); else the base weights train as well. The "
        "reference is then the actor with its adapters off, and the reward model the critic with "
        "its adapters off and its first head: neither is loaded a second time.",
    )


@dataclass
class SystemFlags:
    """Where parameters and states live, and in what precision."""

    dtype: str | None = flag(
        None, "fp32, bf16 or fp16; unset: bf16 on a GPU that has it, fp32 elsewhere."
    )
    frozen_dtype: str | None = flag(
        None,
        "fp32, bf16 or fp16 for the models that are not trained: references and reward model, but "
        "for those that are a trained model with its adapters off; unset: --dtype. In another "
        "dtype than the policy's a reference that is the policy's start "
        "differs from it by rounding, and the divergence does not start at exactly 0.",
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
        "fp16: where the gradients of actor or critic overflow, both leave out the step. (In bf16 "
        "and fp32 a gradient that is not finite always stops both.)",
    )
    compute_fp32_loss: bool = flag(
        False, "Accepted as users write it; log-probabilities and losses are always in fp32."
    )


@dataclass
class OutputFlags:
    """What is written and shown."""

    output_dir: str | None = flag(None, "Folder for the models, metrics and settings. Required.")
    save_steps: int = flag(
        100, "Save to output_dir/step-N every so many generation batches (0: only at the end)."
    )
    enable_ema: bool = flag(
        False,
        "Keep an exponential moving average of the actor's weights, 0.992 per optimiser step in "
        "fp32, and save it as step-N/actor_ema.",
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
