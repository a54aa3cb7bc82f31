"""The online trainer: iterations over the prompts, with evaluation, metrics and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dschat.checkpoint.model_folder import save_model_folder, save_step
from dschat.checkpoint.resume import ResumableRun
from dschat.data.prompts import PromptExample, prompt_batches
from dschat.online.iteration_metrics import progress_line
from dschat.online.learner import OnlineLearner
from dschat.online.reward_variation import RewardVariation
from dschat.runtime import distributed
from dschat.runtime.interruption import StopRequestedError, how_to_resume
from dschat.runtime.profiling import StepProfiler
from dschat.runtime.random_states import random_states, set_random_states
from dschat.runtime.run_files import MetricsLog
from dschat.settings.command_line import require
from dschat.settings.online import profiled_iterations

RESUMED = ("iteration", "generation_step", "_saved_at", "_evaluated_at")
"""What a checkpoint keeps of the trainer itself."""


@dataclass(kw_only=True)
class OnlineTrainer(OnlineLearner):
    """A whole run; see `OnlineLearner` for an iteration of it.

    Attributes:
        prompts: the prompts to learn from, the same list on all ranks; with `samples` of the
            references if `sample_coefficient` is not 0.
        log: where metrics go.
        evaluate: called with the trainer, before, every `evaluate_every` iterations, and after.
        run: saves checkpoints and knows the one to resume from.
    """

    prompts: list[PromptExample]
    log: MetricsLog
    run: ResumableRun
    evaluate: Callable[[OnlineTrainer], dict[str, float]] | None = None
    evaluate_every: int = 0
    _saved_at: int = field(default=-1, init=False)
    _evaluated_at: int = field(default=-1, init=False)
    _checkpoint_at: int = field(default=-1, init=False)
    _iteration_began_at: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.variation = RewardVariation()

    def train(self) -> bool:
        """Run to the planned end, saving models and checkpoints when due.

        Returns:
            Whether the end was reached; False: SIGTERM came, and a checkpoint was saved.
        """
        assert self.config.output_dir is not None
        with self.stop.listening():
            try:
                self._iterate()
            except StopRequestedError:
                if self._checkpoint_at != self.iteration:
                    self.save_checkpoint()
                distributed.log_main(how_to_resume(self.run.folder(self.iteration)))
                return False
            # What is asked to stop now is as good as done.
            if self.config.final_in_output_dir:
                self._save_final()
            elif self._saved_at != self.generation_step:
                self.save()
        return True

    def _iterate(self) -> None:
        """The iterations that are left, with what is due after each of them."""
        from tqdm import tqdm

        size = self.responses // self.group_size
        total = self.config.planned_iterations(len(self.prompts), size)
        per_epoch = len(self.prompts) // size
        profiler = self._profiler(total)
        bar = tqdm(
            total=total,
            initial=self.iteration,
            disable=not distributed.is_main(),
            desc=self.config.algorithm.upper(),
            mininterval=0.5,
        )
        with bar:
            if self.iteration == 0:
                self._evaluate()
            while self.iteration < total:
                epoch, place = divmod(self.iteration, per_epoch)
                batch = prompt_batches(len(self.prompts), size, self.config.seed, epoch)[place]
                chosen = [self.prompts[i] for i in batch]
                # The policy has learnt from these random numbers, or vLLM draws by others.
                if epoch > 0 or self.backend.name == "vllm":
                    chosen = [replace(prompt, sample_rows=()) for prompt in chosen]
                with profiler.watching(self.iteration + 1):
                    metrics = self._run_whole_iteration(chosen)
                self.log.write(metrics)
                self._report_first(metrics)
                warning = self.variation.warning(metrics)
                if warning:
                    distributed.log_main(warning)
                bar.set_postfix_str(progress_line(metrics), refresh=False)
                bar.update()
                self._after_iteration(total)
            if self._evaluated_at != self.iteration:
                self._evaluate()

    def _report_first(self, metrics: dict[str, float]) -> None:
        """What the penalty has to say once it has seen a batch."""
        if self.iteration != 1 or metrics["skipped"]:
            return
        words = self.regularizer.first_report(metrics, self.config.penalty_coefficient)
        if words:
            distributed.log_main(words)

    def _profiler(self, total: int) -> StepProfiler:
        """Traces rank 0's iterations, of `total`, that the settings name."""
        asked = self.config.profile_steps
        iterations = profiled_iterations(asked)
        require(
            iterations.stop <= total + 1,
            f"--profile_steps {asked}: the run has {total} iterations.",
        )
        assert self.config.output_dir is not None
        folder = Path(self.config.output_dir) / "profile"
        return StepProfiler(iterations if distributed.is_main() else range(0), folder)

    def _run_whole_iteration(self, prompts: list[PromptExample]) -> dict[str, float]:
        """An iteration; one that is left half-way leaves everything as it was before it."""
        step, states = self.generation_step, random_states()
        self._iteration_began_at = step
        try:
            return self.run_iteration(prompts)
        except StopRequestedError:
            self.generation_step = step
            set_random_states(states)
            raise

    def _after_iteration(self, total: int) -> None:
        """Evaluate, save the models, save a checkpoint: whatever is due."""
        config = self.config
        if self.evaluate_every and self.iteration % self.evaluate_every == 0:
            self._evaluate()
        every, before = config.save_steps, self._iteration_began_at
        if every and self.generation_step // every > before // every:
            self.save()
        if self.iteration < total:  # nothing is left to resume at the end
            if config.checkpoint_steps and self.iteration % config.checkpoint_steps == 0:
                self.save_checkpoint()
            if self.stop.on_any_rank(self.device):
                raise StopRequestedError

    def save_checkpoint(self) -> None:
        """Save what the run needs to resume after this iteration; all ranks call it.

        Nothing else outlasts an iteration: prompts, sampling and orders are functions of the seed
        and the iteration, and no experience is carried over.
        """
        own = {
            "bad_steps": self.bad_steps.counts(),
            "average": None if self.average is None else self.average.state_dict(),
            **{name: getattr(self, name) for name in RESUMED},
        }
        self.run.save(self.iteration, self._engines(), own, self.log)
        self._checkpoint_at = self.iteration

    def restore(self) -> None:
        """Resume from the run's checkpoint; all ranks call it on a trainer just built."""
        self.run.restore_metrics(self.log)
        own = self.run.restore(self._engines())
        for name in RESUMED:
            setattr(self, name, own[name])
        self.bad_steps.set_counts(own["bad_steps"])
        if self.average is not None:
            self.average.load_state_dict(own["average"])
        set_random_states(own["random"])

    def _engines(self) -> dict[str, Any]:
        return {"actor": self.actor} | ({"critic": self.critic} if self.critic else {})

    def _evaluate(self) -> None:
        if self.evaluate is None or self._evaluated_at == self.iteration:
            return
        found = self.evaluate(self)
        self._evaluated_at = self.iteration
        place = {"step": self.generation_step, "iteration": self.iteration}
        self.log.write({**place, **{f"eval/{name}": value for name, value in found.items()}})

    def save(self) -> None:
        """Write output_dir/step-N/{actor,critic,actor_ema}, N the generation batches so far."""
        assert self.config.output_dir is not None
        folder = save_step(
            self.config.output_dir,
            self.generation_step,
            {name: engine.module.model for name, engine in self._engines().items()},
            self.tokenizer,
            self.average,
        )
        self._saved_at = self.generation_step
        distributed.log_main(f"saved {folder}")

    def final_model(self) -> Path:
        """The folder of the trained policy."""
        folder = Path(self.config.output_dir or "")
        own = self.config.final_in_output_dir
        return folder if own else folder / f"step-{self.generation_step}" / "actor"

    def _save_final(self) -> None:
        """Write the policy to output_dir itself, as Hugging Face users expect it."""
        assert self.config.output_dir is not None
        model, folder = self.actor.module.model, self.config.output_dir
        save_model_folder(model, self.tokenizer, folder, keep_other_files=True)
        distributed.log_main(f"saved {self.config.output_dir}")
