"""A Trainer callback: micro-steps, evaluations, the progress bar and metrics.jsonl."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from dschat.runtime.distributed import is_main, log_main
from dschat.runtime.faults import BadSteps
from dschat.runtime.run_files import MetricsLog


class Progress(TrainerCallback):
    """Counts micro-steps; evaluates and saves when due; shows a bar; writes metrics.jsonl.

    A row holds one optimiser step with the evaluation made at it, if any. Row 0 is the evaluation
    before training.
    """

    def __init__(
        self,
        log: MetricsLog,
        evaluate: Callable[[bool], dict[str, float]],
        save: Callable[[int], None],
        interval: int = 0,
        print_loss: bool = False,
    ) -> None:
        """Set up.

        Args:
            log: where the rows go.
            evaluate: called with whether it is the last evaluation; returns metrics.
            save: called with the number of micro-steps done.
            interval: evaluate and save every so many micro-steps; 0: evaluate after each epoch and
                save at the end.
            print_loss: print the loss of every step.
        """
        self.log, self.evaluate, self.save = log, evaluate, save
        self.interval, self.print_loss = interval, print_loss
        self.micro_step = self.epoch_length = self.last_micro_step = 0
        self.result: dict[str, float] = {}
        self.bad_steps = BadSteps(log.path.parent, 1, "step")  # until the trainer gives its own
        self._pending: dict[str, float] = {}
        self._bad_before = 0
        self._bar: Any = None
        self._since = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate the model as it comes; a resumed run has done that."""
        from tqdm import tqdm

        self.epoch_length = len(kwargs["train_dataloader"])
        self.last_micro_step = self.epoch_length * int(args.num_train_epochs)
        if state.global_step == 0:
            self.log.write({"step": 0, "micro_step": 0, **self.evaluate(False)})
        self._bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="training",
            unit="step",
            disable=not is_main(),
        )
        self._since = time.perf_counter()

    def counts(self) -> dict[str, Any]:
        """What a checkpoint keeps; see `set_counts`."""
        return {
            "micro_step": self.micro_step,
            "result": self.result,
            "pending": self._pending,
            "bad_steps": self.bad_steps.total,
            "bad_steps_in_a_row": self.bad_steps.in_a_row,
            "bad_steps_before": self._bad_before,
        }

    def set_counts(self, counts: dict[str, Any]) -> None:
        """Go on from where `counts` was taken."""
        self.micro_step = counts["micro_step"]
        self.result, self._pending = counts["result"], counts["pending"]
        self.bad_steps.total = counts["bad_steps"]
        self.bad_steps.in_a_row = counts["bad_steps_in_a_row"]
        self._bad_before = counts["bad_steps_before"]

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A micro-step within an optimiser step."""
        self._count()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The micro-step that completes an optimiser step."""
        self._bar.update()
        self._count()

    def _count(self) -> None:
        self.micro_step += 1
        last = self.micro_step == self.last_micro_step
        if last or self.micro_step % (self.interval or self.epoch_length) == 0:
            self._pending = self.result = self.evaluate(last)
            if last or self.interval:
                self.save(self.micro_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write the row of one optimiser step."""
        if not logs or "loss" not in logs:  # the Trainer's summary at the end
            return
        now, total = time.perf_counter(), self.bad_steps.total
        skipped = total - self._bad_before
        if skipped:  # it would be a mean over fewer steps
            logs = {**logs, "loss": math.nan, "grad_norm": math.nan}
        row = {"step": state.global_step, "micro_step": self.micro_step, **logs, **self._pending}
        row |= {"skipped": skipped, "bad_steps": total}
        self.log.write({**row, "seconds": round(now - self._since, 3)})
        self._since, self._pending, self._bad_before = now, {}, total
        self._bar.set_postfix(loss=f"{logs['loss']:.4f}", refresh=False)
        if self.print_loss:
            log_main(f"step {state.global_step}: loss {logs['loss']:.6f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        self._bar.close()
