"""SIGTERM as a request: save what is needed to go on, and leave with exit code 0."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import torch

from dschat.training import distributed


class StopRequestedError(Exception):
    """Raised inside an iteration where it can be left without loss; carries nothing."""


class StopRequest:
    """Whether any rank was asked to stop. A scheduler may signal one rank before the others."""

    def __init__(self) -> None:
        self.received = False

    def _on_signal(self, number: int, frame: Any) -> None:
        self.received = True

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Catch SIGTERM inside the block; the earlier handler comes back after it."""
        before = signal.signal(signal.SIGTERM, self._on_signal)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)

    def on_any_rank(self, device: torch.device) -> bool:
        """Whether some rank was asked to stop; the same answer on all ranks, which must all ask."""
        if distributed.world_size() == 1:
            return self.received
        flag = torch.tensor([int(self.received)], device=device)
        return bool(distributed.all_reduce(flag, "max").item())


def how_to_go_on(folder: object) -> str:
    """The line a stopped run ends with."""
    return (
        f"Stopped by SIGTERM after saving {folder}. Go on: the same command with "
        "--resume_from_checkpoint auto."
    )
