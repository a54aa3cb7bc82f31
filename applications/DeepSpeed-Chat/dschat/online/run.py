"""One function for every online script: `train_online(config)`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dschat.checkpoint.continuation import mark_finished, read_finished, unmark_finished
from dschat.checkpoint.model_folder import check_save
from dschat.checkpoint.resumable import (
    choose,
    freeze_clock,
    refuse_old_checkpoints,
    remove_leftovers,
)
from dschat.checkpoint.same_run import check_same_run
from dschat.checkpoint.saving import refuse_old_steps
from dschat.data.ends import ends_of
from dschat.data.prompts import PromptExample
from dschat.errors import UserError
from dschat.models.key_values import plain_model
from dschat.models.loading import DTYPE_NAMES
from dschat.online.load_references import over_references
from dschat.online.models import load_models, load_tokenizers
from dschat.online.pretraining_mix import load_mix
from dschat.online.resume import MAY_DIFFER, load_resumable, run_facts
from dschat.online.setup import (
    generation_backend,
    load_prompts,
    make_engine,
    start,
)
from dschat.online.trainer import OnlineTrainer
from dschat.regularization import PolicyRegularizer, regularizer_from_config
from dschat.rewards import RewardFunction
from dschat.runtime import distributed
from dschat.runtime.files import require_folder
from dschat.runtime.run_files import MetricsLog, data_folder, write_config
from dschat.scoring.parsing.parsers import open_parser
from dschat.scoring.parsing.segments import segment_by
from dschat.settings.command_line import require
from dschat.settings.generation import require_plain_cache
from dschat.settings.online import OnlineConfig
from dschat.settings.supervised import adapter_learning_rate


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
    device, dtype = start(config)
    if is_finished(config, task.settings if task else None):
        distributed.shut_down()
        return
    trainer = build_trainer(config, device, dtype, task)
    with trainer.log:
        if trainer.train():
            model = trainer.final_model()
            mark_finished(trainer.settings, trainer.iteration, model, {}, config.output_dir)
    trainer.backend.close()
    distributed.shut_down()


def is_finished(config: OnlineConfig, settings: Any = None) -> bool:
    """Whether a run that is to be gone on with has nothing left to do; says so.

    Raises:
        UserError: (on all ranks) the finished run had other settings.
    """
    assert config.output_dir is not None
    require_folder(config.output_dir, "output_dir")
    if config.resume_from_checkpoint is None:
        return False
    found = read_finished(Path(config.output_dir))
    if found is None:
        return False
    check_same_run(found[0], config if settings is None else settings, MAY_DIFFER)
    distributed.log_main(f"The run in {config.output_dir} is finished; its model is {found[1]}.")
    return True


def build_trainer(
    config: OnlineConfig, device: torch.device, dtype: torch.dtype, task: Task | None = None
) -> OnlineTrainer:
    """Load, check and connect everything; cheap checks come before long loads."""
    task = task or Task()
    assert config.output_dir is not None
    require_folder(config.output_dir, "output_dir")
    checkpoint = choose(config.output_dir, config.resume_from_checkpoint)
    freeze_clock(checkpoint)
    if config.resume_from_checkpoint is None:
        refuse_old_steps(config.output_dir)
        refuse_old_checkpoints(config.output_dir)
        unmark_finished(config.output_dir)
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
    settings = config if task.settings is None else task.settings
    facts = run_facts(prompts, mix, config.deepspeed_config)
    if checkpoint is not None:
        check_same_run(checkpoint, settings, MAY_DIFFER, **facts)
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
    remove_leftovers(config.output_dir)
    trainer = OnlineTrainer(
        config=config,
        actor=actor,
        critic=critic,
        references=models.references,
        reward=models.reward,
        regularizer=regularizer,
        tokenizer=tokenizer,
        prompts=prompts,
        device=device,
        backend=backend,
        log=MetricsLog(config.output_dir, settled.tensorboard_path, checkpoint is not None),
        sample_coefficient=task.sample_coefficient,
        mix=mix,
        segment=segment,
        evaluate=task.evaluate,
        evaluate_every=task.evaluate_every,
        settings=settings,
        resolved=shown,
        facts=facts,
    )
    if checkpoint is not None:
        load_resumable(trainer, checkpoint)
    return trainer


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
