"""Runs another script after arranging that something goes wrong in it: a helper of tests.

python faulty_run.py FAULT SCRIPT ARGUMENTS...; the faults are those of `resume_fixtures`.
"""

from __future__ import annotations

import errno
import itertools
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any

from dschat.config import leave


def main() -> None:
    launcher = [word for word in sys.argv[1:2] if word.startswith("--local_rank")]
    fault, script, *arguments = sys.argv[1 + len(launcher) :]
    kind, step = fault.split(":")
    {"stop": stop, "kill": kill, "full": full, "nan": nan}[kind](int(step))
    sys.argv = [script, *launcher, *arguments]
    runpy.run_path(script, run_name="__main__")
    leave()  # the script itself leaves only where it is run by Python


def is_last() -> bool:
    return int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1


def stop(step: int) -> None:
    from dschat.training.run_files import MetricsLog

    write = MetricsLog.write

    def stopping(self: Any, row: Any) -> None:
        write(self, row)
        if row["step"] == step and is_last():
            os.kill(os.getpid(), signal.SIGTERM)

    MetricsLog.write = stopping  # type: ignore[method-assign]


def in_checkpoint(step: int, path: Any) -> bool:
    return any(part.startswith(f".resumable-{step}.tmp-") for part in Path(str(path)).parts)


def kill(step: int) -> None:
    import torch

    save = torch.save

    def killed(value: Any, path: Any, **options: Any) -> None:
        save(value, path, **options)
        if in_checkpoint(step, path):
            time.sleep(1)  # other ranks have begun their files as well
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = killed


def full(step: int) -> None:
    import torch

    save = torch.save

    def refused(value: Any, path: Any, **options: Any) -> None:
        if in_checkpoint(step, path) and is_last():
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(value, path, **options)

    torch.save = refused


def nan(step: int) -> None:
    from dschat.training.sft import SupervisedTrainer

    loss_of, calls = SupervisedTrainer.compute_loss, itertools.count(1)

    def spoilt(self: Any, *arguments: Any, **options: Any) -> Any:
        loss = loss_of(self, *arguments, **options)
        return loss * float("nan") if next(calls) == step and is_last() else loss

    SupervisedTrainer.compute_loss = spoilt  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
