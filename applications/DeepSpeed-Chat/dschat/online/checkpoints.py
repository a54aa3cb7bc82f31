"""What a run writes: models for use, and checkpoints to resume from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dschat.checkpoint.ema import MovingAverage
from dschat.checkpoint.model_card import Extras
from dschat.checkpoint.model_folder import save_model_folder, save_step
from dschat.checkpoint.resume import ResumableRun
from dschat.online.references.schedule import ReferenceSchedule
from dschat.runtime import distributed
from dschat.runtime.distributed import on_all_ranks
from dschat.runtime.random_states import set_random_states
from dschat.runtime.run_files import MetricsLog
from dschat.settings.online import OnlineConfig


class Checkpointer:
    """Saves models and checkpoints of an online run; all ranks call its methods.

    Nothing outlasts an iteration but its number, the engines, the moving average, a reference
    that moves, the count of bad steps and the random numbers: prompts, sampling and orders are
    functions of the seed and the iteration, and no experience is carried over. So a resumed run is
    the uninterrupted one.

    Args:
        config: the run's settings.
        run: where checkpoints are, and the one to resume from.
        engines: DeepSpeed engines by role.
        average: of the actor's weights, or None.
        log: whose rows a checkpoint keeps.
        schedule: of a reference that moves, or None.
    """

    def __init__(
        self,
        config: OnlineConfig,
        run: ResumableRun,
        engines: dict[str, Any],
        tokenizer: Any,
        average: MovingAverage | None,
        log: MetricsLog,
        schedule: ReferenceSchedule | None = None,
    ) -> None:
        assert config.output_dir is not None
        self.folder = Path(config.output_dir)
        self.in_output_dir = config.final_in_output_dir
        self.method = (config.advantage or config.algorithm).upper()
        self.run, self.engines, self.tokenizer = run, engines, tokenizer
        self.average, self.log, self.schedule = average, log, schedule
        self.models_at = -1  # generation batches when models were saved last
        self.checkpoint_at = -1  # iterations when a checkpoint was saved last

    def save_models(self, step: int) -> None:
        """Write output_dir/step-N/{actor,critic,actor_ema}, N the generation batches so far."""
        models = {name: engine.module.model for name, engine in self.engines.items()}
        what = str(self.folder), step, models, self.tokenizer, self.average
        folder = save_step(*what, extras=self._extras())
        self.models_at = step
        distributed.log_main(f"saved {folder}")

    def save_final(self, step: int) -> None:
        """Write the models of a run that has ended, see `final_model`."""
        if self.in_output_dir:
            model = self.engines["actor"].module.model
            what = model, self.tokenizer, str(self.folder), True
            save_model_folder(*what, extras=self._extras())
            distributed.log_main(f"saved {self.folder}")
        elif self.models_at != step:
            self.save_models(step)

    def _extras(self) -> Extras:
        config = self.run.resolved or self.run.settings
        return Extras(self.method, config, self.log, save_adapter=config.save_adapter)

    def final_model(self, step: int) -> Path:
        """The folder of the trained policy: output_dir itself, or output_dir/step-N/actor."""
        return self.folder if self.in_output_dir else self.folder / f"step-{step}" / "actor"

    def save(self, iteration: int, progress: dict[str, Any]) -> Path:
        """Write output_dir/resumable-N, N the iterations done, unless it was just written.

        Args:
            progress: plain values that `restore` returns.

        Raises:
            UserError: (on all ranks) the disk is full or the folder may not be written to.
        """
        if self.checkpoint_at != iteration:
            average = None if self.average is None else self.average.state_dict()
            own = {"progress": progress, "models_at": self.models_at, "average": average}
            if self.schedule is not None:
                own["reference"] = self.schedule.state_dict()
            self.run.save(iteration, self.engines, own, self.log)
            self.checkpoint_at = iteration
        return self.run.folder(iteration)

    def restore(self) -> dict[str, Any]:
        """Load the run's checkpoint into the engines just built, and return the progress.

        Raises:
            UserError: (on all ranks) a file is missing or does not fit.
        """
        self.run.restore_metrics(self.log)
        own = self.run.restore(self.engines)
        self.models_at = own["models_at"]
        if self.average is not None:
            with on_all_ranks():
                self.average.load_state_dict(own["average"])
        if self.schedule is not None:
            self.schedule.load_state_dict(own["reference"])
        set_random_states(own["random"])
        progress: dict[str, Any] = own["progress"]
        return progress
