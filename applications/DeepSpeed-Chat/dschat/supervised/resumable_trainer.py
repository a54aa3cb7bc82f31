"""Checkpoints of `transformers.Trainer` runs, in the place of those that the Trainer writes.

The Trainer's own are written file by file under their final names, one failing rank leaves the
others waiting, and its optimiser files are read back by unpickling. Here the Trainer still decides
what is skipped and counted when it goes on; what is saved and how it is read is ours.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from dschat.checkpoint.continuation import Beginning
from dschat.checkpoint.engine_checkpoint import load_engine, load_values, save_engine
from dschat.checkpoint.resumable import new_checkpoint, prune
from dschat.errors import UserError
from dschat.runtime.distributed import is_main, log_main, on_all_ranks, rank
from dschat.runtime.faults import BadSteps
from dschat.runtime.files import explain_write_errors
from dschat.runtime.interruption import StopRequest, how_to_go_on
from dschat.runtime.random_states import random_states, set_random_states
from dschat.supervised.careful_engine import CarefulEngine
from dschat.supervised.progress import Progress

ENGINE = "engine"
SCHEDULE = "scheduler.pt"
TRAINER_STATE = "trainer_state.json"  # the name that the Trainer looks for


class CheckpointsDue(TrainerCallback):
    """Asks the Trainer to save when a checkpoint is due or SIGTERM came, and then to stop."""

    def __init__(self, every: int, stop: StopRequest, device: torch.device) -> None:
        """Set up.

        Args:
            every: optimiser steps between checkpoints; 0: only when stopped.
            stop: the signal.
            device: where ranks tell each other of it.
        """
        self.every, self.stop, self.device = every, stop, device
        self.stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After an optimiser step; the Trainer logs before it saves."""
        if state.global_step >= state.max_steps:  # the end needs no way to go on
            return
        if self.stop.on_any_rank(self.device):
            self.stopped = control.should_save = control.should_training_stop = True
        elif self.every and state.global_step % self.every == 0:
            control.should_save = True


class ResumableTrainer:
    """Mixed into a Trainer under DeepSpeed, before its class: saves, and goes on."""

    beginning: Beginning
    progress: Progress
    facts: dict[str, Any]
    careful: CarefulEngine

    def run(
        self,
        beginning: Beginning,
        progress: Progress,
        facts: dict[str, Any],
        stop: StopRequest | None = None,
    ) -> bool:
        """Train from where `beginning` says, with `progress` among the callbacks.

        Args:
            facts: see `dschat.checkpoint.continuation.checked_facts`.
            stop: where the signal is listened for already; None: from here on.

        Returns:
            Whether the end was reached; False: SIGTERM came, and a checkpoint was saved.

        Raises:
            UserError: (on all ranks) a checkpoint cannot be written, or does not fit.
        """
        self.beginning, self.progress, self.facts = beginning, progress, facts
        trainer: Any = self
        settings = beginning.settings
        progress.bad_steps = BadSteps(settings.output_dir, settings.max_bad_steps, "step")
        listening: Any = contextlib.nullcontext()
        if stop is None:
            stop = StopRequest()
            listening = stop.listening()
        due = CheckpointsDue(settings.checkpoint_steps, stop, trainer.args.device)
        trainer.add_callback(due)
        checkpoint = beginning.checkpoint
        with listening:
            trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint.folder))
        if due.stopped:
            log_main(how_to_go_on(self._folder()))
        return not due.stopped

    def _folder(self) -> Path:
        step = self.state.global_step  # type: ignore[attr-defined]
        return Path(self.beginning.settings.output_dir) / f"resumable-{step}"

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The Trainer asks for this where a callback has set `should_save`; on all ranks."""
        trainer: Any = self
        settings, step = self.beginning.settings, trainer.state.global_step
        trainer.store_flos()
        with new_checkpoint(settings.output_dir, step, settings, **self.facts) as folder:
            save_engine(trainer.model_wrapped, folder / ENGINE)
            with on_all_ranks(), explain_write_errors(folder):
                torch.save(self._own_state(), folder / f"rank-{rank()}.pt")
                if is_main():
                    torch.save(trainer.lr_scheduler.state_dict(), folder / SCHEDULE)
                    trainer.state.save_to_json(str(folder / TRAINER_STATE))
                    # What the log says so far: a run that goes on writes each row once.
                    shutil.copyfile(self.progress.log.path, folder / "metrics.jsonl")
        prune(settings.output_dir, settings.checkpoint_keep, step)
        log_main(f"saved {self._folder()}")

    def _own_state(self) -> dict[str, Any]:
        """What this rank alone knows, and what the Trainer itself forgets: sums since its last log
        (`logging_steps` above 1) and TRL's counts.
        """
        trainer: Any = self
        return {
            "random": random_states(),
            "progress": self.progress.counts(),
            "loss_since_log": trainer._tr_loss.cpu(),
            "last_logged": trainer._globalstep_last_logged,
            "metrics": {name: list(found) for name, found in trainer._metrics["train"].items()},
            "tokens": trainer._total_train_tokens,
        }

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None
    ) -> Any:
        """The Trainer makes engine and schedule here; it would then load them its own way."""
        trainer: Any = self
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)  # type: ignore[misc]
        self.careful = trainer.accelerator.deepspeed_engine_wrapped = CarefulEngine(
            trainer.model_wrapped,
            self.progress.bad_steps,
            lambda: trainer.state.global_step + 1,
            trainer.processing_class.decode,
            trainer.args.device,
        )
        if resume_from_checkpoint is not None:
            folder = Path(resume_from_checkpoint)
            load_engine(trainer.model_wrapped, folder / ENGINE)
            with on_all_ranks():
                trainer.lr_scheduler.load_state_dict(load_values(folder / SCHEDULE))
        return prepared

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
        """The loss of a micro-batch; 0 where it is not finite, which the Trainer's sum of losses
        would never get rid of (the row of metrics says that the step was left out).
        """
        self.careful.will_learn(inputs)
        loss = super().training_step(model, inputs, *rest)  # type: ignore[misc]
        return torch.where(loss.isfinite(), loss, torch.zeros_like(loss))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """The Trainer asks for this when it has skipped what was trained on, before the first step.

        What it has counted meanwhile from nought is put right here as well.
        """
        if checkpoint is None:
            return
        trainer: Any = self
        with on_all_ranks():
            own = load_values(Path(checkpoint) / f"rank-{rank()}.pt")
            try:
                self.progress.set_counts(own["progress"])
                trainer._tr_loss = own["loss_since_log"].to(trainer.args.device)
                trainer._globalstep_last_logged = own["last_logged"]
                trainer._metrics["train"].update(own["metrics"])
                trainer._total_train_tokens = own["tokens"]
                set_random_states(own["random"])
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{checkpoint} does not fit this version: {error!r}.") from error
