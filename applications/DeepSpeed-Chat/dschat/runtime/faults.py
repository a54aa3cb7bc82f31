"""NaN and infinity: found before the optimiser's step, agreed on by all ranks, kept, counted.

A bad step is skipped on all ranks: weights, moments and schedules stay as they were. What led to
it is written to output_dir/bad_steps, and after `--max_bad_steps` of them in a row the run stops.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dschat.errors import UserError
from dschat.runtime import distributed
from dschat.runtime.distributed import on_all_ranks
from dschat.runtime.files import atomic_write_text

SHOWN_PROMPTS = 3


@dataclass(frozen=True)
class Fault:
    """What was not finite.

    Attributes:
        quantity: in words. rank: where. prompts: of the responses concerned.
        order: faults of a lower number are the likelier cause.
    """

    quantity: str
    rank: int
    prompts: tuple[str, ...] = ()
    order: int = 0

    def __str__(self) -> str:
        shown = "; ".join(repr(p[-200:]) for p in self.prompts[:SHOWN_PROMPTS])
        more = len(self.prompts) - SHOWN_PROMPTS
        where = f" for {shown}" if shown else ""
        return f"{self.quantity} on rank {self.rank}{where}" + (
            f" and {more} more prompts" if more > 0 else ""
        )


class BadStepError(Exception):
    """A step that must not be taken; raised on all ranks alike."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


def agree(fault: Fault | None, device: torch.device) -> None:
    """One small reduction where all is well; all ranks call it.

    Raises:
        BadStepError: on all ranks, with the likeliest cause of all ranks' faults.
    """
    flag = torch.tensor([int(fault is not None)], device=device)
    if int(distributed.all_reduce(flag, "max")):
        faults = [f for f in distributed.gather_objects(fault) if f is not None]
        raise BadStepError(min(faults, key=lambda f: (f.order, f.rank)))


class GradientWatch:
    """Notes whether any gradient that reaches a module's parameters is not finite.

    The hooks see each rank's own gradients before DeepSpeed adds them up, in every ZeRO stage, and
    cost one norm per parameter; nothing waits for the device.
    """

    def __init__(self, module: torch.nn.Module, device: torch.device) -> None:
        self._sum = torch.zeros((), dtype=torch.float32, device=device)
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_hook(self._see)

    def _see(self, gradient: Tensor) -> None:
        # NaN and infinity stay in the sum; a finite norm of float32 cannot overflow in practice.
        self._sum += torch.linalg.vector_norm(gradient.detach(), dtype=torch.float32)

    def take(self) -> bool:
        """Whether all gradients since the last call were finite."""
        finite = bool(self._sum.isfinite())
        self._sum.zero_()
        return finite


def discard_gradients(engine: Any) -> None:
    """`engine.step()` without a step: gradients go, weights, moments and schedule stay.

    In the ZeRO stages 1 to 3 this is DeepSpeed's own way of skipping a step after an overflow;
    with fp16 the loss scale is lowered as after one.
    """
    if engine.zero_optimization_stage() == 0:
        engine.zero_grad()
        engine._take_model_step = lambda lr_kwargs: None
        try:
            engine.step()  # counts the micro-batch
        finally:
            del engine._take_model_step
        engine.global_steps += 1
        engine.skipped_steps += 1
        return
    optimizer = engine.optimizer

    def overflow(*arguments: Any, **options: Any) -> bool:
        optimizer.overflow = True
        return True

    if engine.zero_optimization_partition_weights():
        replaced: dict[str, Any] = {"_overflow_check_and_loss_scale_update": overflow}
    else:
        replaced = {"has_overflow": overflow, "check_grad_overflow": True}
    before = {name: vars(optimizer).get(name) for name in replaced}
    for name, value in replaced.items():
        setattr(optimizer, name, value)
    try:
        engine.step()
    finally:
        for name, value in before.items():
            delattr(optimizer, name) if value is None else setattr(optimizer, name, value)


class BadSteps:
    """Counts bad steps, keeps what led to them, and stops a run that does not recover."""

    def __init__(self, output_dir: str | Path, limit: int, unit: str = "iteration") -> None:
        """Say where and when.

        Args:
            output_dir: of the run; files go to its folder bad_steps.
            limit: stop at so many in a row.
            unit: what the run is counted in.
        """
        self.folder, self.limit, self.unit = Path(output_dir) / "bad_steps", limit, unit
        self.total = self.in_a_row = 0

    def metrics(self) -> dict[str, float]:
        """For the log."""
        return {"bad_steps": float(self.total)}

    def counts(self) -> tuple[int, int]:
        """What a checkpoint keeps: bad steps in all and in a row."""
        return self.total, self.in_a_row

    def set_counts(self, counts: tuple[int, int]) -> None:
        """Resume from `counts`."""
        self.total, self.in_a_row = counts

    def good(self) -> None:
        """A step was taken."""
        self.in_a_row = 0

    def bad(
        self,
        error: BadStepError,
        number: int,
        rows: Sequence[dict[str, Any]],
    ) -> None:
        """A step was skipped; all ranks call it.

        Args:
            number: of the iteration, or what else the unit is.
            rows: what led to it, as far as it was known, as plain values.

        Raises:
            UserError: it was one too many.
        """
        self.total += 1
        self.in_a_row += 1
        name = f"{self.unit}-{number}-bad-{self.total}-rank-{distributed.rank()}.jsonl"
        with on_all_ranks():
            if rows:
                lines = [json.dumps(row) for row in rows]
                atomic_write_text(self.folder / name, "\n".join(lines) + "\n")
        place = f"{self.unit} {number}"
        distributed.log_main(
            f"WARNING: {place}: step skipped: {error}. The batch is in {self.folder}."
        )
        if self.in_a_row >= self.limit:
            raise UserError(
                f"Stopped after {self.in_a_row} bad steps in a row (--max_bad_steps {self.limit}). "
                f"The last: {place}: {error}. The batches are in {self.folder}. Lower the learning "
                "rate, look at these texts, or use fp32; then restart or resume from a checkpoint."
            )
