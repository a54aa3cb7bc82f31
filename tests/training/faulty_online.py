"""A run of step 3 in which rank 1 fails: `faulty_online.py WHAT settings.json`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from dschat.config import run_script

# The launcher puts --local_rank first.
WHAT, SETTINGS = sys.argv[-2], Path(sys.argv[-1])


class Faulty:
    """The reward function of rank 1 goes wrong at its second generation batch."""

    name = "faulty"

    def __init__(self, rank: int) -> None:
        self.rank, self.calls = rank, 0

    def __call__(self, prompts: list[str], responses: list[str], examples: Any) -> list[float]:
        self.calls += 1
        if self.rank == 1 and self.calls >= 2:
            if WHAT == "raise":
                raise RuntimeError("the judge is on strike")
            if WHAT == "die":
                SETTINGS.with_name("died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if WHAT == "nan" and self.calls == 2:
                return [float("nan"), *[0.0] * (len(prompts) - 1)]
        return [float(len(r)) for r in responses]


def mistaken(learn: Any) -> Any:
    """What nobody has thought of: an exception on rank 1, while rank 0 waits for it."""

    def wrong(self: Any, experiences: Any) -> Any:
        if self.rank == 1 and self.iteration == 1:
            SETTINGS.with_name("died").touch()
            return {}["a mistake of ours"]
        return learn(self, experiences)

    return wrong


def main() -> None:
    """Train with the faulty reward."""
    from dschat.training.online import Task, train_online
    from dschat.training.online_learner import OnlineLearner
    from dschat.training.penalty_config import DivergenceConfig

    if WHAT == "bug":
        OnlineLearner.learn = mistaken(OnlineLearner.learn)  # type: ignore[method-assign]
    config = DivergenceConfig(**json.loads(SETTINGS.read_text()))
    config.validate()
    train_online(config, Task(reward=Faulty(int(os.environ["RANK"]))))


if __name__ == "__main__":
    run_script(main)
