"""What an online run needs beside its models: process, prompts, engines, what generates."""

from __future__ import annotations

from typing import Any

import torch

from dschat.data.load import load_data
from dschat.data.prompts import PromptExample, build_prompts
from dschat.data.schemas.gsm8k import with_worked_examples
from dschat.data.text import warn_of_missing_template
from dschat.models.loading import resolve_dtype
from dschat.models.optimizer import adamw, rates_text, schedule
from dschat.models.policy import PolicyModel
from dschat.rollout.backends.base import GenerationBackend
from dschat.rollout.backends.in_place import make_backend
from dschat.rollout.generation import GenerationSettings
from dschat.rollout.sampler import Sampler
from dschat.runtime import distributed
from dschat.runtime.deepspeed_config import deepspeed_settings, read_overrides
from dschat.runtime.distributed import on_all_ranks, quiet_libraries
from dschat.runtime.memory import spare_gradient_copies
from dschat.runtime.random_states import seed_everything
from dschat.runtime.run_files import data_folder
from dschat.settings.online import OnlineConfig
from dschat.settings.supervised import adapter_learning_rate


def load_prompts(
    config: OnlineConfig, tokenizer: Any, held_out: bool = False
) -> list[PromptExample]:
    """The RL part of the data as prompts short enough, with the worked examples asked for.

    Args:
        held_out: the evaluation split instead, at most `eval_samples` of it.
    """
    data = load_data(
        config.data_path,
        phase="rl",
        data_split=config.data_split,
        seed=config.seed,
        data_output_path=str(data_folder(config)),
        apply_chat_template=config.apply_chat_template,
    )
    train, test = data.train, data.eval
    if config.few_shot:
        train, test = with_worked_examples(train, test, config.few_shot)
    if held_out:
        rows = list(test)[: config.eval_samples]
    else:
        warn_of_missing_template(data.train, tokenizer)
        rows = train
    prompts, _ = build_prompts(
        rows,
        tokenizer,
        config.max_prompt_seq_len,
        config.num_padding_at_beginning,
        config.flag("max_prompt_seq_len"),
    )
    return prompts


def sampler_of(
    config: OnlineConfig, tokenizer: Any, vocabulary_size: int | None, device: torch.device
) -> Sampler:
    """Samples what is evaluated, or trained on, beside the policy's own responses."""
    settings = GenerationSettings.of(
        tokenizer, config.max_answer_seq_len, config.temperature, vocabulary_size
    )
    return Sampler(tokenizer, settings, config.seed, config.eval_batch_size, device)


def make_engine(
    module: torch.nn.Module,
    role: str,
    config: OnlineConfig,
    dtype: torch.dtype,
    optimizer_steps: int,
) -> Any:
    """A DeepSpeed engine around the actor's or the critic's module.

    Args:
        role: "actor" or "critic": whose flags apply.
        optimizer_steps: of the whole run, for the schedule.
    """
    import deepspeed

    stage = getattr(config, f"{role}_zero_stage")
    # Text goes through the actor in micro-batches of its own.
    passes = 2 if role == "actor" and config.unsupervised_dataset_name else 1
    settings = deepspeed_settings(
        stage,
        dtype,
        config.per_device_training_batch_size,
        config.gradient_accumulation_steps * passes,
        distributed.world_size(),
        config.offload,
        read_overrides(config.deepspeed_config),
    )
    if stage == 3 and isinstance(module, PolicyModel):
        module.share_with_zero3()
    optimizer = adamw(
        module,
        getattr(config, f"{role}_learning_rate"),
        getattr(config, f"{role}_weight_decay"),
        adapter_learning_rate(config, f"{role}_"),
    )
    distributed.log_main(rates_text(module, optimizer, f"The {role}"))
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer,
        lr_scheduler=schedule(
            config.lr_scheduler_type, config.num_warmup_steps, config.warmup_ratio, optimizer_steps
        ),
        config=settings,
    )
    spare_gradient_copies(engine)
    return engine


def generation_backend(config: OnlineConfig) -> GenerationBackend:
    """Who samples the responses.

    Raises:
        UserError: (on all ranks) its package is not installed.
    """
    with on_all_ranks():
        return make_backend(
            config.generation_backend,
            config.max_prompt_seq_len + config.max_answer_seq_len,
            config.vllm_gpu_memory_utilization,
            config.vllm_tensor_parallel_size,
            config.vllm_keep_memory,
        )


def start(config: OnlineConfig) -> tuple[torch.device, torch.dtype]:
    """Join the other ranks, seed, and choose device and dtype."""
    quiet_libraries()
    device = distributed.init_distributed(config.local_rank)
    dtype = resolve_dtype(config.dtype, device, config.flag_name("dtype"))
    seed_everything(config.seed)
    return device, dtype
