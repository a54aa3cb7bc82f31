"""One function for every online script: `train_online(config)`."""

from __future__ import annotations

import dataclasses
import inspect
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dschat.checkpoint.ema import MovingAverage
from dschat.checkpoint.model_folder import check_save, refuse_old_steps
from dschat.checkpoint.resume import ResumableRun, open_run
from dschat.data.ends import ends_of
from dschat.data.prompts import PromptExample
from dschat.errors import UserError
from dschat.models.key_values import plain_model
from dschat.models.loading import DTYPE_NAMES
from dschat.online.checkpoints import Checkpointer
from dschat.online.load_references import over_references
from dschat.online.loop import OnlineTrainer
from dschat.online.metrics import Report
from dschat.online.models import load_models, load_tokenizers
from dschat.online.pretraining_mix import PretrainingMix, load_mix
from dschat.online.setup import (
    generation_backend,
    load_prompts,
    make_engine,
    start,
)
from dschat.online.updates import Updater
from dschat.regularization import PolicyRegularizer, regularizer_from_config
from dschat.rewards import RewardFunction
from dschat.rollout.sampler import RolloutSampler
from dschat.runtime import distributed
from dschat.runtime.deepspeed_config import read_overrides
from dschat.runtime.faults import BadSteps
from dschat.runtime.files import require_folder
from dschat.runtime.run_files import MetricsLog, data_folder, write_config
from dschat.scoring.parsing.parsers import open_parser
from dschat.scoring.parsing.segments import segment_by
from dschat.scoring.sample_term import with_samples
from dschat.scoring.scorer import Scorer
from dschat.scoring.scoring import PenaltyScorer
from dschat.scoring.targets import Targets
from dschat.settings.command_line import require
from dschat.settings.generation import require_plain_cache
from dschat.settings.online import OnlineConfig
from dschat.settings.supervised import adapter_learning_rate

MAY_DIFFER = {
    "offload_reference_model",
    "reference_residency",
    "actor_gradient_checkpointing",
    "critic_gradient_checkpointing",
    "profile_steps",
    "vllm_gpu_memory_utilization",
}
"""Settings of step 3 that move or recompute tensors without changing what comes out.

vLLM's share of memory can change how it batches, and so its rounding, of which nothing is promised.
"""


@dataclasses.dataclass
class Task:
    """What a run may bring besides its settings; the defaults are those of step 3.

    Attributes:
        reward: scores responses; None: the reward model that the settings name.
        evaluate, evaluate_every: see `OnlineTrainer`.
        prepare: called once with the prompts, the references, the tokenizer and the device;
            returns the prompts to learn from.
        rows: called with the training and the held-out rows; returns the rows to make prompts of.
        sample_coefficient: of the forward KL that the prompts' `samples` estimate.
        mixture: hold the policy near the mixture of the references, not near each of them.
        settings: what config.yaml shall hold, where the user's settings are others than those of
            the trainer.
    """

    reward: RewardFunction | None = None
    evaluate: Callable[[OnlineTrainer], dict[str, float]] | None = None
    evaluate_every: int = 0
    prepare: Callable[..., list[PromptExample]] = lambda prompts, *_: prompts
    rows: Callable[[Any, Any], Any] = lambda train, _: train
    sample_coefficient: float = 0.0
    mixture: bool = False
    settings: Any = None


def train_online(config: OnlineConfig, task: Task | None = None) -> None:
    """Align a policy by PPO, GRPO or RLOO under the penalty that `config` names.

    Raises:
        UserError: something the user gave cannot be used.
    """
    assert config.output_dir is not None
    device, dtype = start(config)
    require_folder(config.output_dir, "output_dir")
    run = open_run(config, task.settings if task else None, MAY_DIFFER)
    if run.finished is None:
        trainer = build_trainer(config, device, dtype, task, run)
        with trainer.report.log:
            if trainer.train():
                run.mark_finished(trainer.iteration, trainer.final_model(), {})
        trainer.backend.close()
    distributed.shut_down()


def build_trainer(
    config: OnlineConfig,
    device: torch.device,
    dtype: torch.dtype,
    task: Task | None = None,
    run: ResumableRun | None = None,
) -> OnlineTrainer:
    """Load, check and connect everything; cheap checks come before long loads."""
    task = task or Task()
    assert config.output_dir is not None
    run = run or open_run(config, task.settings, MAY_DIFFER)
    if config.resume_from_checkpoint is None:
        refuse_old_steps(config.output_dir)
    check_groups(config)
    backend = generation_backend(config)
    tokenizer = load_tokenizers(config)
    segment = None
    if config.termination_condition == "parsing":
        parser = open_parser(config.parser)
        segment = partial(segment_by, parser, tokenizer, config.parser_cutoff)
    prompts = load_prompts(config, tokenizer, task.rows)
    steps = optimizer_steps(config, len(prompts))
    iterations = config.planned_iterations(len(prompts), prompts_per_iteration(config))
    mix = load_mix(config, tokenizer, iterations)
    run.check_data(**data_facts(prompts, mix, config.deepspeed_config))
    models = load_models(config, tokenizer, dtype, device, task.reward, prompts)
    trained = [models.actor.model] + ([models.critic.model] if models.critic else [])
    check_save(trained, tokenizer, config.output_dir)
    actor_class = type(plain_model(models.actor.model)).__name__
    require_plain_cache(config, models.actor.plain_cache, actor_class)
    with models.references[0].on_device() as reference:
        embeddings = reference.model.get_input_embeddings().weight.detach().to(device)
        single = build_regularizer(config, embeddings, tokenizer)
    regularizer = over_references(single, config, task.mixture)
    report(config, single, len(prompts), steps)
    prompts = task.prepare(prompts, models.references, tokenizer, device)
    actor = make_engine(models.actor, "actor", config, dtype, steps)
    critic = models.critic and make_engine(models.critic, "critic", config, dtype, steps)
    settled = resolved(config, dtype, tokenizer, single)
    shown = settled if task.settings is None else filled_in(task.settings, settled)
    write_config(shown, config.output_dir, penalty=regularizer.name, device=device.type)
    run.resolved = shown
    engines = {"actor": actor} | ({"critic": critic} if critic else {})
    log = MetricsLog(config.output_dir, settled.tensorboard_path, run.checkpoint is not None)
    bad_steps = BadSteps(config.output_dir, config.max_bad_steps)
    average = None
    if config.enable_ema:
        resting = torch.device("cpu") if config.offload else None
        average = MovingAverage(actor.module.model, device=resting)
    sample_term = None
    if task.sample_coefficient:
        settings = {"config": config, "tokenizer": tokenizer, "device": device}
        sample_term = partial(with_samples, coefficient=task.sample_coefficient, **settings)
    penalty = PenaltyScorer(
        regularizer, models.references, config.temperature, distributed.union_over_ranks
    )
    trainer = OnlineTrainer(
        config=config,
        prompts=prompts,
        tokenizer=tokenizer,
        device=device,
        actor=actor,
        critic=critic,
        backend=backend,
        sampler=RolloutSampler.of(config, actor, tokenizer, device, backend, critic is None),
        scorer=Scorer(penalty),
        reward=models.reward,
        targets=Targets.of(config, regularizer.reward_clip, segment),
        updater=Updater(config, actor, critic, tokenizer.pad_token_id, bad_steps, mix, average),
        checkpointer=Checkpointer(config, run, engines, tokenizer, average, log),
        bad_steps=bad_steps,
        report=Report(log, config.algorithm.upper(), regularizer, config.kl_ctl),
        sample_term=sample_term,
        evaluate=task.evaluate,
        evaluate_every=task.evaluate_every,
    )
    if run.checkpoint is not None:
        trainer.restore()
    return trainer


def data_facts(
    prompts: list[PromptExample], mix: PretrainingMix | None, deepspeed_config: str | None
) -> dict[str, Any]:
    """What a resumed run must share beside the settings: its data and DeepSpeed's own file."""
    crc = 0
    for prompt in prompts:
        crc = zlib.crc32(np.asarray(prompt.ids, dtype=np.int64).tobytes(), crc)
    return {
        "prompts": len(prompts),
        "checksum_of_the_prompts": crc,
        "checksum_of_the_text": None if mix is None else zlib.crc32(mix.blocks.tobytes()),
        "contents_of_the_deepspeed_config": read_overrides(deepspeed_config),
    }


def filled_in(settings: Any, settled: OnlineConfig) -> Any:
    """The user's settings with those left open that the trainer has settled under their name."""
    names = ("end_of_conversation_token", "pad_token", "data_output_path", "deepspeed")
    return dataclasses.replace(settings, **{name: getattr(settled, name) for name in names})


def responses_per_iteration(config: OnlineConfig) -> int:
    """Of all ranks."""
    per_rank = config.per_device_generation_batch_size * config.generation_rounds()
    return per_rank * distributed.world_size()


def prompts_per_iteration(config: OnlineConfig) -> int:
    """Of all ranks."""
    return responses_per_iteration(config) // config.group_size()


def check_groups(config: OnlineConfig) -> None:
    """Refuse a group size that does not divide an iteration's responses.

    Raises:
        UserError: says both numbers and where the larger one comes from.
    """
    total, group = responses_per_iteration(config), config.group_size()
    if total % group:
        raise UserError(
            f"--num_generations {group} does not divide the {total} responses of an iteration "
            f"({distributed.world_size()} ranks x {config.per_device_generation_batch_size} per "
            f"generation batch x {config.generation_rounds()} generation batches): groups would be "
            "cut. Change one of these."
        )


def resolved(
    config: OnlineConfig, dtype: torch.dtype, tokenizer: Any, regularizer: PolicyRegularizer
) -> OnlineConfig:
    """The settings with what was left open filled in, for config.yaml."""
    assert config.output_dir is not None
    values: dict[str, Any] = {
        "dtype": DTYPE_NAMES[dtype],
        "end_of_conversation_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "data_output_path": str(data_folder(config)),
        "deepspeed": True,
        "local_rank": -1,
    }
    if config.enable_tensorboard and config.tensorboard_path is None:
        values["tensorboard_path"] = str(Path(config.output_dir) / "tensorboard")
    for role in ("actor", "critic"):
        name = f"{role}_lora_learning_rate"
        if getattr(config, f"{role}_lora_dim") and getattr(config, name) is None:
            values[name] = adapter_learning_rate(config, f"{role}_")
    # What is unset is left to the penalty's own default (see `regularizer_from_config`).
    for name, parameter in inspect.signature(type(regularizer)).parameters.items():
        if name in vars(config) and getattr(config, name) is None:
            # Or to what it makes of the model, as it does of epsilon.
            own = parameter.default
            values[name] = getattr(regularizer, name, None) if own is None else own
    return dataclasses.replace(config, **values)


def optimizer_steps(config: OnlineConfig, n_prompts: int) -> int:
    """Optimiser steps of the whole run."""
    per_iteration = config.per_device_generation_batch_size * config.generation_rounds()
    prompts = prompts_per_iteration(config)
    require(
        n_prompts >= prompts,
        f"There are {n_prompts} prompts and an iteration takes {prompts}: "
        f"{responses_per_iteration(config)} responses ({distributed.world_size()} ranks x "
        f"--per_device_generation_batch_size {config.per_device_generation_batch_size} x "
        f"{config.generation_rounds()} generation batches) in groups of --num_generations "
        f"{config.group_size()}. Lower the batch size or the accumulation, use fewer ranks, let "
        "longer prompts in, or give more data.",
    )
    micro_batches = per_iteration // config.per_device_training_batch_size
    updates = config.ppo_epochs * micro_batches // config.gradient_accumulation_steps
    return config.planned_iterations(n_prompts, prompts) * updates


def build_regularizer(
    config: OnlineConfig, embeddings: torch.Tensor, tokenizer: Any
) -> PolicyRegularizer:
    """The regulariser; one rank of each node builds what is cached, the others read it.

    Args:
        embeddings: [V, H] the reference's input embeddings, on the device of training.
    """
    perturb = getattr(config, "gaussian_perturb", 0.0)
    if perturb:
        generator = torch.Generator().manual_seed(config.seed)
        noise = torch.randn(embeddings.shape, generator=generator).to(embeddings)
        embeddings = (1 - perturb) * embeddings + perturb * noise
    cache = data_folder(config) / "nearest_tokens"

    def build() -> PolicyRegularizer:
        return regularizer_from_config(
            config,
            token_embeddings=embeddings,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=ends_of(tokenizer).ids,
            cache_dir=cache,
            writes=distributed.is_first_of_node(),
            progress=_progress,
        )

    built, failure = None, None
    if distributed.is_first_of_node():
        try:
            built = build()
        except (ValueError, OSError) as error:
            failure = str(error)
    failure = distributed.first_failure(failure)
    if failure is not None:
        raise UserError(f"The penalty {config.regularizer!r} cannot be made: {failure}")
    return built if built is not None else build()


def _progress(total: int) -> Any:
    """A bar on the main rank's screen, where the work takes more than two seconds."""
    from tqdm import tqdm

    what = "nearest tokens of new tokens"
    return tqdm(total=total, desc=what, disable=not distributed.is_main(), delay=2.0, leave=False)


def report(
    config: OnlineConfig, regularizer: PolicyRegularizer, n_prompts: int, steps: int
) -> None:
    """Say at the start what is about to happen, and what is odd about the penalty."""
    if figures := regularizer.diagnose():
        facts = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        distributed.log_main(f"{regularizer.name}: {facts}")
    if warning := regularizer.warning():
        distributed.log_main(f"WARNING: {warning}")
    rounds = config.generation_rounds()
    if rounds != config.generation_batches:
        distributed.log_main(
            f"{rounds} generation batches per iteration, so that "
            f"{config.gradient_accumulation_steps} accumulated micro-batches come from one policy."
        )
    size = prompts_per_iteration(config)
    unused = n_prompts % size
    distributed.log_main(
        f"{n_prompts} prompts, {distributed.world_size()} rank(s), {steps} optimiser steps"
        + (f"; {unused} prompts of each epoch make no full iteration of {size}" if unused else "")
        + "."
    )
