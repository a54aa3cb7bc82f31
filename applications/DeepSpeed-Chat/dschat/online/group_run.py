"""GRPO and RLOO with several references: from the script's settings to a run of the trainer."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch

from dschat.data.load import load_data
from dschat.data.prompts import PromptExample, build_prompts
from dschat.data.schemas.gsm8k import with_worked_examples
from dschat.models.references import FrozenPolicy
from dschat.online.answer_accuracy import prompt_results, summarise
from dschat.online.loop import OnlineTrainer
from dschat.online.reference_sampling import draw_reference_samples
from dschat.online.run import Task, train_online
from dschat.rewards.math_answers import MathAnswerReward, MathRewardWeights
from dschat.rollout.generation import GenerationSettings, whole_model
from dschat.rollout.sampler import Sampler
from dschat.runtime import distributed
from dschat.runtime.run_files import data_folder
from dschat.settings.command_line import require
from dschat.settings.group import MultiReferenceConfig, own_flag_names
from dschat.settings.references import reference_weights


def train_multi_reference(config: MultiReferenceConfig) -> None:
    """Train a policy on checked answers, near several references.

    Raises:
        UserError: something the user gave cannot be used.
    """
    require(
        torch.cuda.is_available() or not config.fp16,
        "--fp16 needs a GPU; leave it out, or give --bf16.",
    )
    with own_flag_names(config):
        train_online(config.online(), task_of(config))


def task_of(config: MultiReferenceConfig) -> Task:
    """The reward, the evaluation and the penalty's samples, for the online trainer."""
    fkl = config.penalty == "kl" and config.kl_type == "fkl"
    weights = MathRewardWeights(
        answer=config.answer_reward,
        integer=config.integer_reward,
        strict_format=config.strict_format_reward,
        soft_format=config.soft_format_reward,
        tag=config.tag_reward,
    )
    return Task(
        reward=MathAnswerReward(weights, config.answer_extraction),
        evaluate=Evaluation(config),
        evaluate_every=config.eval_steps // config.num_iterations,
        rows=functools.partial(training_rows, config),
        prepare=functools.partial(prepare, config),
        sample_coefficient=config.gamma if config.from_samples else 0.0,
        mixture=fkl and not config.from_samples,
        settings=config,
    )


def training_rows(config: MultiReferenceConfig, train: Any, held_out: Any) -> Any:
    """The rows to learn from, with the worked examples that were asked for."""
    if config.few_shot == 0:
        return train
    return with_worked_examples(train, held_out, config.few_shot)[0]


def prepare(
    config: MultiReferenceConfig,
    prompts: list[PromptExample],
    references: list[FrozenPolicy],
    tokenizer: Any,
    device: torch.device,
) -> list[PromptExample]:
    """The prompts, with samples of the references where the penalty is learnt from them."""
    if not config.from_samples:
        return prompts
    return draw_reference_samples(
        prompts,
        references,
        [weight for _, weight in reference_weights(config)],
        config.reference_samples,
        sampler_of(config, tokenizer, None, device),
        data_folder(config.online()),
    )


def sampler_of(
    config: MultiReferenceConfig,
    tokenizer: Any,
    vocabulary_size: int | None,
    device: torch.device,
) -> Sampler:
    """Samples what is evaluated, or learnt from, beside the policy's own responses."""
    settings = GenerationSettings.of(
        tokenizer, config.max_completion_length, config.temperature, vocabulary_size
    )
    return Sampler(tokenizer, settings, config.seed, config.eval_batch_size, device)


@dataclass
class Evaluation:
    """Accuracy on the test part: greedy, and in k tries.

    Attributes:
        config: the run's settings.
    """

    config: MultiReferenceConfig

    def __post_init__(self) -> None:
        self.prompts: list[PromptExample] | None = None

    def __call__(self, trainer: OnlineTrainer) -> dict[str, float]:
        """Metrics of `AccuracyReport`, the same on all ranks."""
        config = self.config
        if self.prompts is None:
            self.prompts = self.load(trainer.tokenizer)
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
        distributed.log_main(
            f"accuracy at step {trainer.iteration * config.num_iterations}: {report.accuracy:.1%} "
            f"({low:.1%} to {high:.1%}) of {report.prompts} problems{tries}; answers found by "
            f"{report.found_by_text()}"
        )
        return report.metrics()

    def load(self, tokenizer: Any) -> list[PromptExample]:
        """The held-out problems as prompts."""
        online = self.config.online()
        data = load_data(
            online.data_path,
            phase="rl",
            data_split=online.data_split,
            seed=online.seed,
            data_output_path=str(data_folder(online)),
            apply_chat_template=online.apply_chat_template,
        )
        rows = data.eval
        if self.config.few_shot:
            rows = with_worked_examples(data.train, rows, self.config.few_shot)[1]
        rows = list(rows)[: self.config.eval_samples]
        return build_prompts(rows, tokenizer, online.max_prompt_seq_len)[0]
