"""Progress in optimiser steps, as Hugging Face users count them."""

from __future__ import annotations

from typing import Any

from dschat.runtime.run_files import MetricsLog
from dschat.supervised.progress import Progress


class StepProgress(Progress):
    """Evaluates and saves when due; shows a bar; writes metrics.jsonl.

    A row holds the means of `logging_steps` optimiser steps, or an evaluation, or both. Row 0 is
    the evaluation before training.
    """

    def __init__(
        self, log: MetricsLog, evaluate: Any, save: Any, eval_steps: int, save_steps: int
    ) -> None:
        """Set up.

        Args:
            log: where the rows go.
            evaluate: called with whether it is the last evaluation; returns metrics.
            save: called with the number of optimiser steps done.
            eval_steps, save_steps: evaluate and save every so many; 0: evaluate at both ends only,
                and save nothing.
        """
        super().__init__(log, evaluate, save)
        self.eval_steps, self.save_steps = eval_steps, save_steps

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A micro-step within an optimiser step."""
        self.micro_step += 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The micro-step that completes an optimiser step."""
        self._bar.update()
        self.micro_step += 1
        step, last = state.global_step, state.global_step >= state.max_steps
        if last or (self.eval_steps and step % self.eval_steps == 0):
            self.result = self.evaluate(last)
            if step % args.logging_steps == 0:
                self._pending = self.result
            elif self.result:
                self.log.write({"step": step, "micro_step": self.micro_step, **self.result})
        if self.save_steps and step % self.save_steps == 0 and not last:
            self.save(step)
