"""The online trainer: iterations over the prompts, with evaluation, metrics and checkpoints."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from dschat.data.prompts import PromptExample, prompt_batches
from dschat.training import distributed
from dschat.training.iteration_metrics import progress_line
from dschat.training.model_folder import save_model_folder
from dschat.training.online_learner import OnlineLearner
from dschat.training.run_files import MetricsLog
from dschat.training.saving import save_step


@dataclass(kw_only=True)
class OnlineTrainer(OnlineLearner):
    """A whole run; see `OnlineLearner` for an iteration of it.

    Attributes:
        prompts: the prompts to learn from, the same list on all ranks; with `samples` of the
            references if `sample_coefficient` is not 0.
        log: where metrics go.
        evaluate: called with the trainer, before, every `evaluate_every` iterations, and after.
    """

    prompts: list[PromptExample]
    log: MetricsLog
    evaluate: Callable[[OnlineTrainer], dict[str, float]] | None = None
    evaluate_every: int = 0
    _saved_at: int = field(default=-1, init=False)

    def train(self) -> None:
        """Run to the planned end, saving every `save_steps` generation batches and at the end."""
        from tqdm import tqdm

        config = self.config
        size = self.responses // self.group_size
        total = config.planned_iterations(len(self.prompts), size)
        name = config.algorithm.upper()
        bar = tqdm(total=total, disable=not distributed.is_main(), desc=name, mininterval=0.5)
        saved = 0
        self._evaluate()
        for epoch in itertools.count():
            if self.iteration == total:
                break
            for batch in prompt_batches(len(self.prompts), size, config.seed, epoch):
                if self.iteration == total:
                    break
                metrics = self.run_iteration([self.prompts[i] for i in batch])
                self.log.write(metrics)
                bar.set_postfix_str(progress_line(metrics), refresh=False)
                bar.update()
                if self.evaluate_every and self.iteration % self.evaluate_every == 0:
                    self._evaluate()
                if config.save_steps and self.generation_step // config.save_steps > saved:
                    saved = self.generation_step // config.save_steps
                    self.save()
        bar.close()
        if not (self.evaluate_every and self.iteration % self.evaluate_every == 0):
            self._evaluate()
        if config.final_in_output_dir:
            self._save_final()
        elif self._saved_at != self.generation_step:
            self.save()

    def _evaluate(self) -> None:
        if self.evaluate is None:
            return
        found = self.evaluate(self)
        place = {"step": self.generation_step, "iteration": self.iteration}
        self.log.write({**place, **{f"eval/{name}": value for name, value in found.items()}})

    def save(self) -> None:
        """Write output_dir/step-N/{actor,critic}, N the generation batches so far."""
        assert self.config.output_dir is not None
        engines = {"actor": self.actor} | ({"critic": self.critic} if self.critic else {})
        folder = save_step(
            self.config.output_dir,
            self.generation_step,
            {name: engine.module.model for name, engine in engines.items()},
            self.tokenizer,
        )
        self._saved_at = self.generation_step
        distributed.log_main(f"saved {folder}")

    def _save_final(self) -> None:
        """Write the policy to output_dir itself, as Hugging Face users expect it."""
        assert self.config.output_dir is not None
        model, folder = self.actor.module.model, self.config.output_dir
        save_model_folder(model, self.tokenizer, folder, keep_other_files=True)
        distributed.log_main(f"saved {self.config.output_dir}")
