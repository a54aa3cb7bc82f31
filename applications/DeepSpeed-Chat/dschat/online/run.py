"""One function for every online script: `train_online(config)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from dschat.checkpoint.ema import MovingAverage
from dschat.checkpoint.model_folder import refuse_old_steps
from dschat.checkpoint.publish import check_publishing, publish
from dschat.checkpoint.resume import ResumableRun, open_run
from dschat.data.prompts import PromptExample
from dschat.models.loading import DTYPE_NAMES
from dschat.online.answer_accuracy import prompt_results, summarise
from dschat.online.checkpoints import Checkpointer
from dschat.online.loop import OnlineTrainer
from dschat.online.metrics import Report
from dschat.online.models import check_models, load_models, load_tokenizers
from dschat.online.penalty import build_penalty
from dschat.online.plan import (
    check_groups,
    data_facts,
    optimizer_steps,
    prompts_per_iteration,
    report,
)
from dschat.online.pretraining_mix import load_mix
from dschat.online.references.reference_sampling import draw_reference_samples
from dschat.online.references.schedule import ReferenceSchedule
from dschat.online.setup import generation_backend, load_prompts, make_engine, sampler_of, start
from dschat.online.updates import Updater
from dschat.regularization import PolicyRegularizer
from dschat.rewards import RewardFunction
from dschat.rewards.build import Rewards
from dschat.rollout.generation import whole_model
from dschat.rollout.sampler import RolloutSampler
from dschat.runtime import distributed
from dschat.runtime.faults import BadSteps
from dschat.runtime.files import require_folder
from dschat.runtime.run_files import MetricsLog, data_folder, write_config
from dschat.scoring.parsing.parsers import open_parser
from dschat.scoring.parsing.segments import segment_by
from dschat.scoring.rollout_correction import RolloutCorrection
from dschat.scoring.sample_term import with_samples
from dschat.scoring.scorer import Scorer
from dschat.scoring.scoring import PenaltyScorer
from dschat.scoring.targets import Targets
from dschat.settings.online import OnlineConfig
from dschat.settings.supervised import adapter_learning_rate

MAY_DIFFER = {
    "offload_reference_model",
    "reference_residency",
    "actor_gradient_checkpointing",
    "critic_gradient_checkpointing",
    "gradient_checkpointing",  # of gsm8k_grpo.py
    "profile_steps",
    *("vllm_gpu_memory_utilization", "vllm_keep_memory", "rollout_max_kl"),
}
"""Settings of step 3 that move or recompute tensors without changing what comes out.

vLLM's share of memory can change how it batches, and so its rounding, of which nothing is promised.
"""


def train_online(config: OnlineConfig, extras: Extras | None = None) -> None:
    """Align a policy by PPO, GRPO or RLOO under the penalty and rewards that `config` names.

    Raises:
        UserError: something the user gave cannot be used.
    """
    assert config.output_dir is not None
    device, dtype = start(config)
    require_folder(config.output_dir, config.flag_name("output_dir"))
    check_publishing(config)
    run = open_run(config, may_differ=MAY_DIFFER)
    if run.finished is None:
        trainer = build_trainer(config, device, dtype, extras, run)
        with trainer.report.log:
            if trainer.train():
                run.mark_finished(trainer.iteration, trainer.final_model(), {})
                publish(config, trainer.final_model())
        trainer.backend.close()
    else:
        publish(config, run.finished[0])
    distributed.shut_down()


@dataclass(frozen=True)
class Extras:
    """What a caller from Python may bring that is not in the settings.

    Attributes:
        reward: scores responses, instead of the rewards that the settings name.
        evaluate: called with the trainer before training, every `evaluate_every` iterations (0:
            never) and after training; None: accuracy, where answers are checked.
    """

    reward: RewardFunction | None = None
    evaluate: Callable[[OnlineTrainer], dict[str, float]] | None = None
    evaluate_every: int = 0


def build_trainer(
    config: OnlineConfig,
    device: torch.device,
    dtype: torch.dtype,
    extras: Extras | None = None,
    run: ResumableRun | None = None,
) -> OnlineTrainer:
    """Load, check and connect everything; cheap checks come before long loads."""
    extras = extras or Extras()
    assert config.output_dir is not None
    run = run or open_run(config, may_differ=MAY_DIFFER)
    if config.resume_from_checkpoint is None:
        refuse_old_steps(config.output_dir)
    check_groups(config)
    rewards = Rewards(config) if extras.reward is None else Rewards.only(extras.reward)
    backend = generation_backend(config)

    # 1. data
    tokenizer = load_tokenizers(config)
    segment = None
    if config.termination_condition == "parsing":
        parser = open_parser(config.parser)
        segment = partial(segment_by, parser, tokenizer, config.parser_cutoff)
    prompts = load_prompts(config, tokenizer)
    steps = optimizer_steps(config, len(prompts))
    iterations = config.planned_iterations(len(prompts), prompts_per_iteration(config))
    mix = load_mix(config, tokenizer, iterations)
    run.check_data(**data_facts(prompts, mix, config))

    # 2. models and penalty
    models = load_models(config, tokenizer, dtype, device, rewards, prompts)
    check_models(config, models, tokenizer)
    single, regularizer = build_penalty(config, models.references, tokenizer, device)
    report(config, single, len(prompts), steps)
    sample_term = None
    if config.from_samples:
        prompts = draw_reference_samples(
            prompts,
            models.references,
            [weight for _, weight in config.references()] or [1.0],
            config.penalty.reference_samples,
            sampler_of(config, tokenizer, None, device),
            data_folder(config),
        )
        sample_term = partial(with_samples, config=config, tokenizer=tokenizer, device=device)
    actor = make_engine(models.actor, "actor", config, dtype, steps)
    moving = ReferenceSchedule.of(config, actor, models.references)
    critic = models.critic and make_engine(models.critic, "critic", config, dtype, steps)

    # 3. what is written
    run.resolved = resolved(config, dtype, tokenizer, single)
    write_config(run.resolved, config.output_dir, penalty=regularizer.name, device=device.type)
    resuming = run.checkpoint is not None
    log = MetricsLog.of(run.resolved, config.output_dir, resuming)
    name = (config.advantage or config.algorithm).upper()
    bad_steps = BadSteps(config.output_dir, config.max_bad_steps)
    average = None
    if config.enable_ema:
        resting = torch.device("cpu") if config.offload else None
        average = MovingAverage(actor.module.model, device=resting)
    engines = {"actor": actor} | ({"critic": critic} if critic else {})
    evaluate, every = extras.evaluate, extras.evaluate_every
    if evaluate is None and config.checks_answers:
        evaluate = AnswerEvaluation(config)
        every = config.eval_steps // config.updates_per_iteration()

    # 4. the loop and its parts
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
        correction=RolloutCorrection.of(config, dtype),
        updater=Updater(config, actor, critic, tokenizer.pad_token_id, bad_steps, mix, average),
        checkpointer=Checkpointer(config, run, engines, tokenizer, average, log, moving),
        bad_steps=bad_steps,
        report=Report(log, name, regularizer, config.penalty_coefficient),
        sample_term=sample_term,
        schedule=moving,
        evaluate=evaluate,
        evaluate_every=every,
    )
    if resuming:
        trainer.restore()
    return trainer


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
        "tensorboard_path": config.board_folder(config.output_dir),
        "deepspeed": True,
        "local_rank": -1,
    }
    for role in ("actor", "critic"):
        name = f"{role}_lora_learning_rate"
        if getattr(config, f"{role}_lora_dim") and getattr(config, name) is None:
            values[name] = adapter_learning_rate(config, f"{role}_")
    # What is unset is what the penalty makes of it, such as epsilon from the model's embeddings.
    for field in dataclasses.fields(config.penalty):
        if getattr(config, field.name) is None:
            values[field.name] = getattr(regularizer, field.name, None)
    return config.replace(**values)


class AnswerEvaluation:
    """Measures accuracy on the test part of the data: greedy, and in k tries.

    Args:
        config: an `OnlineConfig` with the reward `math`.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.prompts: list[PromptExample] | None = None

    def __call__(self, trainer: OnlineTrainer) -> dict[str, float]:
        """Metrics of `AccuracyReport`, the same on all ranks."""
        config = self.config
        if self.prompts is None:
            self.prompts = load_prompts(config, trainer.tokenizer, held_out=True)
        ks = [] if config.pass_k == [0] else config.pass_k
        engine = trainer.actor
        with whole_model(engine, engine.zero_optimization_partition_weights()) as model:
            vocabulary = engine.module.output_layer.vocabulary_size
            results = prompt_results(
                model,
                self.prompts,
                sampler_of(config, trainer.tokenizer, vocabulary, trainer.device),
                max(ks, default=0),
                rank=distributed.rank(),
                world_size=distributed.world_size(),
                forms=config.answer_extraction,
            )
        every = [r for share in distributed.gather_objects(results) for r in share]
        report = summarise(every, ks, config.answer_extraction)
        tries = "".join(f", pass@{k} {value:.1%}" for k, value in report.pass_at.items())
        low, high = report.interval
        step = trainer.iteration * config.updates_per_iteration()
        distributed.log_main(
            f"accuracy at step {step}: {report.accuracy:.1%} ({low:.1%} to {high:.1%}) of "
            f"{report.prompts} problems{tries}; answers found by {report.found_by_text()}"
        )
        return report.metrics()
