"""SIGTERM as a request: save a checkpoint to resume from, and leave with exit code 0."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dschat.runtime import distributed


class StopRequestedError(Exception):
    """Raised inside an iteration where it can be left without loss; carries nothing."""


class StopRequest:
    """Whether any rank was asked to stop. A scheduler may signal one rank before the others."""

    def __init__(self) -> None:
        self.received = False

    def _on_signal(self, number: int, frame: Any) -> None:
        self.received = True

    def _end_with_the_others(self, reader: socket.socket, ranks: list[int]) -> None:
        """In a thread: where SIGTERM comes because a rank of this machine has died, leave at once.

        The launcher then ends one rank after the other and gives each 30 seconds. This one may be
        waiting for the dead one in C++, where no handler of Python's runs.
        """
        while received := reader.recv(64):
            if signal.SIGTERM in received and not all(map(_alive, ranks)):
                os._exit(128 + signal.SIGTERM)

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Catch SIGTERM inside the block; the earlier handler comes back after it."""
        before = signal.signal(signal.SIGTERM, self._on_signal)
        here = [(socket.gethostname(), os.getpid())]
        everyone = distributed.gather_objects(here[0])
        ranks = [pid for host, pid in everyone if host == here[0][0]]
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        old_descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        watcher = threading.Thread(
            target=self._end_with_the_others, args=(reader, ranks), daemon=True
        )
        watcher.start()
        try:
            yield self
        finally:
            signal.set_wakeup_fd(old_descriptor)
            signal.signal(signal.SIGTERM, before)
            writer.close()  # the thread reads the end
            watcher.join()
            reader.close()

    def check(self, device: torch.device) -> None:
        """Raise `StopRequestedError` on all ranks if `on_any_rank`."""
        if self.on_any_rank(device):
            raise StopRequestedError

    def on_any_rank(self, device: torch.device) -> bool:
        """Whether some rank was asked to stop; the same answer on all ranks, which must all ask."""
        if distributed.world_size() == 1:
            return self.received
        flag = torch.tensor([int(self.received)], device=device)
        return bool(distributed.all_reduce(flag, "max").item())


def _alive(pid: int) -> bool:
    """Whether a process of this machine is there and no zombie; unknown counts as there."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return not Path("/proc/self").exists()
    except (OSError, IndexError):
        return True
    return status not in ("Z", "X")


STOPPED_BEFORE_TRAINING = (
    "Stopped by SIGTERM before the first step of training; there is nothing to keep. To restart, "
    "run the same command."
)


def how_to_resume(folder: object) -> str:
    """The line a stopped run ends with."""
    return (
        f"Stopped by SIGTERM after saving {folder}. To resume, run the same command with "
        "--resume_from_checkpoint auto."
    )
