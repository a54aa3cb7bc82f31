"""What is added to TRL's trainers: exact steps on any ranks, checkpoints, non-finite steps skipped.

The Trainer's own checkpoints are written file by file under their final names, one failing rank
leaves the others waiting, and its optimiser files are read back by unpickling. Here the Trainer
still decides which rows a resumed run skips; what is saved and how it is read is
`dschat.checkpoint.resume`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import DeepSpeedEngineWrapper
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback

from dschat.checkpoint.model_folder import check_save
from dschat.checkpoint.publish import publish
from dschat.checkpoint.resume import ResumableRun
from dschat.models.optimizer import adamw, rates_text
from dschat.runtime import distributed
from dschat.runtime.distributed import log_main, sum_over_ranks, world_size
from dschat.runtime.faults import (
    BadStepError,
    BadSteps,
    Fault,
    GradientWatch,
    agree,
    discard_gradients,
)
from dschat.runtime.interruption import StopRequest, how_to_resume
from dschat.runtime.memory import spare_gradient_copies
from dschat.runtime.random_states import set_random_states
from dschat.settings.supervised import FineTuningConfig
from dschat.supervised.batches import PAIRS, BlankCollator, RankBatches, tokens_in
from dschat.supervised.progress import Progress


class CheckedEngine(DeepSpeedEngineWrapper):  # type: ignore[misc]
    """accelerate's wrapper of an engine, which skips optimiser steps that are not finite.

    With fp16 DeepSpeed itself looks at the gradient and lowers the loss scale.

    Args:
        engine: DeepSpeed's.
        step: the number of the optimiser step that is being made.
        decode: token ids -> text.
    """

    def __init__(
        self,
        engine: Any,
        bad_steps: BadSteps,
        step: Callable[[], int],
        decode: Callable[[list[int]], str],
        device: torch.device,
    ) -> None:
        super().__init__(engine)
        spare_gradient_copies(engine)
        self.bad_steps, self.step, self.decode, self.device = bad_steps, step, decode, device
        self.watch = GradientWatch(engine.module, device)
        self._batches: list[dict[str, Tensor]] = []
        self._losses: list[Tensor] = []

    def note(self, batch: dict[str, Any]) -> None:
        """Keep a micro-batch for the report of a bad step, before its forward pass."""
        names = ("input_ids", "attention_mask")
        self._batches.append({name: batch[name] for name in names})

    def backward(self, loss: Tensor, sync_gradients: bool = True, **options: Any) -> None:
        """Of one micro-batch; then the optimiser's step, where one is due and all is finite.

        Raises:
            UserError: on all ranks: it was one bad step too many.
        """
        self._losses.append(loss.detach())
        self.engine.set_gradient_accumulation_boundary(is_boundary=sync_gradients)
        self.engine.backward(loss, **options)
        if not sync_gradients:
            return
        try:
            agree(self._fault(), self.device)
        except BadStepError as error:
            discard_gradients(self.engine)
            self.engine.optimizer.overflow = True  # what the Trainer asks: the schedule waits
            self.bad_steps.bad(error, self.step(), self._rows())
        else:
            self.engine.optimizer.overflow = False
            self.engine.step()
            self.bad_steps.good()
        self._batches, self._losses = [], []

    def _fault(self) -> Fault | None:
        finite = self.watch.take()  # also where it is not asked: the next step starts from 0
        if not torch.stack(self._losses).isfinite().all():
            what, order = "the loss is not finite", 0
        elif finite or self.engine.fp16_enabled():
            return None
        else:
            what, order = "the gradient is not finite", 1
        texts = tuple(row["text"] for row in self._rows())
        return Fault(what, distributed.rank(), texts, order)

    def _rows(self) -> list[dict[str, Any]]:
        """This rank's texts of the step, each with the loss of its micro-batch."""
        rows = []
        for batch, loss in zip(self._batches, self._losses, strict=True):
            value = float(loss) if loss.isfinite() else str(float(loss))
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True):
                kept = ids[mask].tolist()
                row = {"text": self.decode(kept), "ids": kept, "loss_of_micro_batch": value}
                rows.append(row)
        return rows


class Checkpoints(TrainerCallback):
    """Saves when a checkpoint is due or SIGTERM came, and then stops; resumes random numbers.

    It comes after `Progress`, which has then written the step's row of metrics.

    Args:
        every: optimiser steps between checkpoints; 0: only when stopped.
    """

    def __init__(self, trainer: FineTuningTrainer, every: int, stop: StopRequest) -> None:
        self.trainer, self.every, self.stop = trainer, every, stop
        self.stopped = False
        self.random_states: dict[str, Any] | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The first one of a resumed run comes after the rows that were trained on are skipped."""
        if self.random_states is not None:
            set_random_states(self.random_states)
            self.random_states = None

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """After every optimiser step."""
        if "loss" not in logs or state.global_step >= state.max_steps:  # nothing left to resume
            return
        self.stopped = self.stop.on_any_rank(args.device)
        if self.stopped or (self.every and state.global_step % self.every == 0):
            self.trainer.save_checkpoint()
        if self.stopped:
            control.should_training_stop = True


class FineTuningTrainer:
    """Mixed into TRL's trainers, before their class."""

    config: FineTuningConfig
    resumable: ResumableRun
    progress: Progress
    checkpoints: Checkpoints
    engine: CheckedEngine
    optimizer: Any

    def run(
        self,
        config: FineTuningConfig,
        resumable: ResumableRun,
        progress: Progress,
        stop: StopRequest | None = None,
    ) -> bool:
        """Train, from the checkpoint if there is one.

        Args:
            stop: where SIGTERM is listened for already; None: from here on.

        Returns:
            Whether the end was reached; False: SIGTERM came, and a checkpoint was saved.

        Raises:
            UserError: (on all ranks) the model could not be saved, or a checkpoint cannot be
                written or does not fit.
        """
        trainer: Any = self
        check_save([trainer.model], trainer.processing_class, resumable.output_dir)
        self.config, self.resumable, self.progress = config, resumable, progress
        progress.bad_steps = BadSteps(resumable.output_dir, config.max_bad_steps, "step")
        listening: Any = contextlib.nullcontext()
        if stop is None:
            stop = StopRequest()
            listening = stop.listening()
        self.checkpoints = Checkpoints(self, config.checkpoint_steps, stop)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(progress)
        trainer.add_callback(self.checkpoints)
        checkpoint = resumable.checkpoint
        with listening:
            trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint.folder))
        step = trainer.state.global_step
        if self.checkpoints.stopped:
            log_main(how_to_resume(resumable.folder(step)))
        else:
            assert progress.saved is not None
            resumable.mark_finished(step, progress.saved, progress.result)
            publish(config, progress.saved)
        return not self.checkpoints.stopped

    def save_checkpoint(self) -> None:
        """Save the run after the current optimiser step; all ranks call it."""
        trainer: Any = self
        own = {
            "schedule": trainer.lr_scheduler.state_dict(),
            "progress": self.progress.state_dict(),
        }
        # The file and the name that the Trainer looks for when it resumes.
        texts = {"trainer_state.json": json.dumps(dataclasses.asdict(trainer.state))}
        engines = {"engine": trainer.model_wrapped}
        self.resumable.save(trainer.state.global_step, engines, own, self.progress.log, texts)

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None
    ) -> Any:
        """The Trainer makes engine and schedule here, and would load them by unpickling."""
        trainer: Any = self
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)  # type: ignore[misc]
        self.engine = trainer.accelerator.deepspeed_engine_wrapped = CheckedEngine(
            trainer.model_wrapped,
            self.progress.bad_steps,
            lambda: trainer.state.global_step + 1,
            trainer.processing_class.decode,
            trainer.args.device,
        )
        if resume_from_checkpoint is not None:
            own = self.resumable.restore({"engine": trainer.model_wrapped})
            trainer.lr_scheduler.load_state_dict(own["schedule"])
            self.progress.load_state_dict(own["progress"])
            self.checkpoints.random_states = own["random"]
        return prepared

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> Tensor:
        """The loss of a micro-batch; 0 where it is not finite, which the Trainer's sum of losses
        would never get rid of (the row of metrics says that the step was skipped).
        """
        self.engine.note(inputs)
        self.progress.tokens += tokens_in(inputs)
        loss = super().training_step(model, inputs, *rest)  # type: ignore[misc]
        return torch.where(loss.isfinite(), loss, torch.zeros_like(loss))

    def get_train_dataloader(self) -> Any:
        """Every row once, whatever the number of ranks."""
        trainer: Any = self
        rows, args = trainer.train_dataset, trainer.args
        size = args.per_device_train_batch_size
        sampler = RankBatches(len(rows), size, args.seed, distributed.rank(), world_size())
        loader: Any = DataLoader(
            rows,
            batch_sampler=sampler,
            collate_fn=BlankCollator(trainer.data_collator, rows[0]),
            pin_memory=args.dataloader_pin_memory,
            # Of its own: an epoch's start draws from it, and not from the run's random numbers.
            generator=torch.Generator(),
        )
        loader.set_epoch = sampler.set_epoch
        return loader

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """DeepSpeed-Chat's; see `adamw`."""
        if self.optimizer is None:
            model = self.model if model is None else model  # type: ignore[attr-defined]
            self.optimizer = adamw(
                model,
                self.config.learning_rate,
                self.config.weight_decay,
                self.config.lora_learning_rate,
            )
            log_main(rates_text(model, self.optimizer, "The model"))
            # ZeRO's optimisers have it: the Trainer asks it whether a step was taken.
            self.optimizer.overflow = False
        return self.optimizer


class PairTrainer(FineTuningTrainer):
    """Steps that do not depend on how their pairs are cut into micro-batches and ranks.

    A pair's loss is divided by the number of pairs in the optimiser step, over all its
    micro-batches and all ranks: 7 pairs as 2, 2, 2 and 1 are a batch of 7. (The Trainer's mean of
    means gives the last one twice the weight.)
    """

    # The Trainer shall not divide by the number of micro-batches as well.
    loss_is_scaled_for_ga: Any = True
    _sums: dict[str, float]

    def get_batch_samples(self, *arguments: Any) -> tuple[list[Any], int]:
        """The micro-batches of an optimiser step, and the number of its pairs over all ranks."""
        batches, _ = super().get_batch_samples(*arguments)  # type: ignore[misc]
        mine = sum(int(batch[PAIRS]) for batch in batches)
        (total,) = sum_over_ranks([mine], self.args.device)  # type: ignore[attr-defined]
        self._sums = {}
        return batches, int(total)

    def part_of_step(
        self, losses: Tensor, statistics: dict[str, Tensor], step_pairs: int
    ) -> Tensor:
        """A micro-batch's part of the step's mean loss, to be summed over micro-batches.

        Args:
            losses: [n] of this rank's pairs.
            statistics: sums over them, by name; logged are means over the step's pairs.
            step_pairs: pairs of the optimiser step.
        """
        for name, value in statistics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value) / step_pairs
        # DeepSpeed takes the mean over ranks.
        return losses.sum() * (world_size() / step_pairs)

    def log(self, logs: dict[str, float], *rest: Any) -> None:
        """Add the step's statistics; collective."""
        if "loss" in logs:
            means = sum_over_ranks(list(self._sums.values()), self.args.device)  # type: ignore[attr-defined]
            logs = {**logs, **dict(zip(self._sums, means, strict=True))}
        super().log(logs, *rest)  # type: ignore[misc]
