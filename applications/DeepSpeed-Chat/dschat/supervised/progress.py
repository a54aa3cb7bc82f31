"""A Trainer callback: micro-steps, evaluations, the progress bar and metrics.jsonl."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from dschat.runtime.distributed import is_main, log_main, sum_over_ranks
from dschat.runtime.faults import BadSteps
from dschat.runtime.run_files import MetricsLog

NOT_AVERAGED = ("epoch", "grad_norm", "learning_rate")
"""What a row over several optimiser steps tells of the last of them."""


class Progress(TrainerCallback):
    """Counts micro-steps; evaluates and saves when due; shows a bar; writes metrics.jsonl.

    A row holds one optimiser step with the evaluation made at it, if any. Row 0 is the evaluation
    before training. The Trainer logs after every step.

    Args:
        log: where the rows go.
        evaluate: called with whether it is the last evaluation; returns metrics.
        save: called with the number of micro-steps done and whether it is the last time; returns
            the model's folder.
        interval: evaluate and save every so many micro-steps; 0: evaluate after each epoch and
            save at the end.
        print_loss: print the loss of every step.
    """

    def __init__(
        self,
        log: MetricsLog,
        evaluate: Callable[[bool], dict[str, float]],
        save: Callable[[int, bool], Path],
        interval: int = 0,
        print_loss: bool = False,
    ) -> None:
        self.log, self.evaluate, self.save = log, evaluate, save
        self.interval, self.print_loss = interval, print_loss
        self.logging_steps = 1
        self.micro_step = self.epoch_length = self.last_micro_step = 0
        self.tokens = 0  # that this rank has trained on
        self.result: dict[str, float] = {}
        self.saved: Path | None = None
        self.bad_steps = BadSteps(log.path.parent, 1, "step")  # until the trainer gives its own
        self._pending: dict[str, float] = {}
        self._steps: list[dict[str, float]] = []  # since the last row
        self._bad_before = 0
        self._bar: Any = None
        self._since = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate the untrained model; a resumed run has done that."""
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

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, of this rank."""
        return {
            "micro_step": self.micro_step,
            "tokens": self.tokens,
            "result": self.result,
            "pending": self._pending,
            "steps": self._steps,
            "bad_steps": self.bad_steps.counts(),
            "bad_steps_before": self._bad_before,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what `state_dict` gave."""
        self.micro_step, self.tokens = state["micro_step"], state["tokens"]
        self.result, self._pending = state["result"], state["pending"]
        self._steps, self._bad_before = state["steps"], state["bad_steps_before"]
        self.bad_steps.set_counts(state["bad_steps"])

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A micro-step within an optimiser step."""
        self.micro_step += 1
        self._after_micro_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The micro-step that completes an optimiser step."""
        self._bar.update()
        self.micro_step += 1
        self._after_micro_step()
        self._after_step(state.global_step, state.global_step >= state.max_steps)

    def _after_micro_step(self) -> None:
        last = self.micro_step == self.last_micro_step
        if last or self.micro_step % (self.interval or self.epoch_length) == 0:
            self._pending = self.result = self.evaluate(last)
            if last or self.interval:
                self._save(self.micro_step, last)

    def _save(self, number: int, last: bool) -> None:
        self.saved = self.save(number, last)
        log_main(f"Saved the model to {self.saved}")

    def _after_step(self, step: int, last: bool) -> None:
        """Whatever is due by optimiser steps."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """One optimiser step is done; write the row of the last `logging_steps`."""
        if "loss" not in logs:  # the Trainer's summary at the end
            return
        if self.bad_steps.total > self._bad_before:  # the row's mean would be over fewer steps
            logs = {**logs, "loss": math.nan, "grad_norm": math.nan}
        self._steps.append(logs)
        self._bar.set_postfix(loss=f"{logs['loss']:.4f}", refresh=False)
        if self.print_loss:
            log_main(f"step {state.global_step}: loss {logs['loss']:.6f}")
        if state.global_step % self.logging_steps:
            return
        now, total = time.perf_counter(), self.bad_steps.total
        row = {"step": state.global_step, "micro_step": self.micro_step, **logs}
        row |= {
            name: sum(logs[name] for logs in self._steps) / len(self._steps)
            for name in logs.keys() - set(NOT_AVERAGED)
        }
        (row["num_tokens"],) = sum_over_ranks([self.tokens], args.device)
        row |= {**self._pending, "skipped": total - self._bad_before, "bad_steps": total}
        self.log.write({**row, "seconds": round(now - self._since, 3)})
        self._since, self._pending, self._bad_before, self._steps = now, {}, total, []

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        self._bar.close()


class StepProgress(Progress):
    """Counts in optimiser steps, as Hugging Face users do.

    A row holds the means of `logging_steps` optimiser steps, or an evaluation, or both.

    Args:
        evaluate, log: as in `Progress`.
        save: called with the number of optimiser steps done and whether it is the last time.
        eval_steps, save_steps: evaluate and save every so many; 0: evaluate at both ends only, and
            save at the end only.
    """

    def __init__(
        self,
        log: MetricsLog,
        evaluate: Callable[[bool], dict[str, float]],
        save: Callable[[int, bool], Path],
        eval_steps: int,
        save_steps: int,
        logging_steps: int,
    ) -> None:
        super().__init__(log, evaluate, save)
        self.eval_steps, self.save_steps = eval_steps, save_steps
        self.logging_steps = logging_steps

    def _after_micro_step(self) -> None:
        """Nothing is due by micro-steps."""

    def _after_step(self, step: int, last: bool) -> None:
        if last or (self.eval_steps and step % self.eval_steps == 0):
            self.result = self.evaluate(last)
            if step % self.logging_steps == 0:
                self._pending = self.result
            elif self.result:
                self.log.write({"step": step, "micro_step": self.micro_step, **self.result})
        if last or (self.save_steps and step % self.save_steps == 0):
            self._save(step, last)
