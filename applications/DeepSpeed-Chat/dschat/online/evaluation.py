"""Accuracy of the policy in training: answers to held-out problems, greedy and in k tries."""

from __future__ import annotations

from typing import Any

from dschat.data.prompts import PromptExample
from dschat.online.answer_accuracy import prompt_results, summarise
from dschat.online.loop import OnlineTrainer
from dschat.online.setup import load_prompts, sampler_of
from dschat.rollout.generation import whole_model
from dschat.runtime import distributed


class AnswerEvaluation:
    """Measures accuracy on the test part of the data.

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
