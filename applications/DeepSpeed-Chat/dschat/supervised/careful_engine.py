"""NaN and infinity in runs of `transformers.Trainer`: found before the step is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import DeepSpeedEngineWrapper
from torch import Tensor

from dschat.runtime import distributed
from dschat.runtime.faults import (
    BadStepError,
    BadSteps,
    Fault,
    GradientWatch,
    agree,
    discard_gradients,
)
from dschat.runtime.gradient_sums import spare_gradient_copies


class CarefulEngine(DeepSpeedEngineWrapper):  # type: ignore[misc]
    """In the place of accelerate's wrapper, which takes a step whatever the gradient is.

    With fp16 a gradient that is not finite is DeepSpeed's own affair: it lowers the loss scale.
    """

    def __init__(
        self,
        engine: Any,
        bad_steps: BadSteps,
        step: Callable[[], int],
        decode: Callable[[list[int]], str],
        device: torch.device,
    ) -> None:
        """Set up.

        Args:
            engine: DeepSpeed's.
            step: the number of the optimiser step that is being made.
            decode: token ids -> text.
        """
        super().__init__(engine)
        spare_gradient_copies(engine)
        self.bad_steps, self.step, self.decode, self.device = bad_steps, step, decode, device
        self.watch = GradientWatch(engine.module, device)
        self._batches: list[dict[str, Tensor]] = []
        self._losses: list[Tensor] = []

    def will_learn(self, inputs: dict[str, Any]) -> None:
        """Note a micro-batch for the report of a fault, before its forward pass."""
        names = ("input_ids", "attention_mask")
        self._batches.append({name: inputs[name] for name in names if name in inputs})

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
        finite = self.watch.take()  # also where it is not asked: the next step begins anew
        if not torch.stack(self._losses).isfinite().all():
            return Fault("the loss is not finite", distributed.rank(), self._texts())
        if finite or self.engine.fp16_enabled():
            return None
        return Fault("the gradient is not finite", distributed.rank(), self._texts(), order=1)

    def _texts(self) -> tuple[str, ...]:
        return tuple(row["text"] for row in self._rows())

    def _rows(self) -> list[dict[str, Any]]:
        """This rank's texts of the step, each with the loss of its micro-batch."""
        rows = []
        for batch, loss in zip(self._batches, self._losses, strict=True):
            ids = batch["input_ids"]
            mask = batch.get("attention_mask", torch.ones_like(ids))
            value = float(loss)
            for row, is_token in zip(ids, mask.bool(), strict=True):
                kept = row[is_token].tolist()
                said = value if loss.isfinite() else str(value)
                rows.append({"text": self.decode(kept), "ids": kept, "loss_of_micro_batch": said})
        return rows
