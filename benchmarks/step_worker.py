"""A process that makes a step when it is told to, so that two systems can take turns."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memory import extra_peak

REPLY = "@reply "
"""What a worker's own lines start with; all others are the libraries'."""


IMPORTED = (
    "datasets",
    "deepspeed",
    "dschat.online.run",
    "trl.trainer.grpo_trainer",
    "transformers.models.gemma.modeling_gemma",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen2.modeling_qwen2",
)
"""What either system imports, before memory is measured."""


def say(**values: Any) -> None:
    """One answer to the parent."""
    print(REPLY + json.dumps(values), flush=True)


def wait() -> bool:
    """Until the parent asks for another step (True) or has had enough (False)."""
    return sys.stdin.readline().strip() == "step"


def serve(run: Callable[[], None]) -> None:
    """Do `run`, which calls `wait` and `say`, and tell the extra peak memory of all of it."""
    for name in IMPORTED:
        importlib.import_module(name)
    _, peak = extra_peak(run)
    say(peak_mib=None if peak == "?" else float(peak))


class Worker:
    """The parent's side.

    Args:
        script: beside this file. args: its arguments. log: gets what the libraries print.
        variables: of the environment, beside this process's own.
    """

    def __init__(self, script: str, args: list[str], log: Path, variables: dict[str, str]) -> None:
        self.log = log
        command = [sys.executable, str(Path(__file__).with_name(script)), *args]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env={**os.environ, **variables},
        )

    def step(self) -> dict[str, Any]:
        """Ask for a step; what the worker says about it."""
        self.ask()
        return self.answer()

    def ask(self) -> None:
        """Ask for a step; `answer` waits for it."""
        self._send("step")

    def end(self) -> dict[str, Any]:
        """Ask for the end; the peak memory."""
        self._send("end")
        answer = self.answer()
        self.process.wait()
        return answer

    def _send(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """What the worker says next."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(REPLY):
                return json.loads(line[len(REPLY) :])
        raise SystemExit(f"{self.process.args!r} ended:\n{self.log.read_text()[-3000:]}")


@contextmanager
def workers(
    commands: dict[str, tuple[str, list[str]]],
    folder: Path,
    variables: dict[str, str] | None = None,
) -> Iterator[dict[str, Worker]]:
    """All of them running, ended whatever happens."""
    made: dict[str, Worker] = {}
    try:
        for name, (script, args) in commands.items():
            made[name] = Worker(script, args, folder / f"{len(made)}.log", variables or {})
        yield made
    finally:
        for worker in made.values():
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()
