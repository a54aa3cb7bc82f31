"""Kill a training run with SIGKILL at random moments, and start it again, until it has ended."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch import command, environment

POLL_SECONDS = 0.002
LIMIT_SECONDS = 900.0  # a hang; two ranks on a loaded machine take minutes


@dataclass
class Outcome:
    """What happened: how many kills hit a running save, and how many runs it took."""

    kills: int = 0
    during_save: int = 0
    starts: int = 0
    at: list[int] = field(default_factory=list)


def rows(folder: Path) -> list[dict[str, Any]]:
    """Of metrics.jsonl without times; a line that a kill cut off is no row."""
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found.append({k: v for k, v in row.items() if not k.startswith(("time/", "seconds"))})
    return found


def start(script: Path, flags: Sequence[object], ranks: int, log: Path) -> subprocess.Popen[bytes]:
    """The script in a session of its own, with its output appended to a file."""
    with open(log, "ab") as output:
        return subprocess.Popen(
            command([script, *flags], ranks, environment()),
            env=environment(),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for the launcher and all ranks at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def saving(folder: Path) -> bool:
    """Whether a resumable checkpoint is being written."""
    return any(folder.glob(".resumable-*.tmp-*"))


def kill_once(
    process: subprocess.Popen[bytes], folder: Path, chance: random.Random, outcome: Outcome
) -> bool:
    """Wait for a random moment, every second time within a save, and kill; False: it had ended."""
    begun, first = time.monotonic(), len(rows(folder))
    # Some progress first, or ten kills would all hit the same start-up.
    wanted, in_save = chance.randint(0, 2), chance.random() < 0.5
    patience = chance.uniform(0, 0.3)
    due: float | None = None
    while process.poll() is None:
        now = time.monotonic()
        if now - begun > LIMIT_SECONDS:
            kill(process)
            raise TimeoutError(f"{folder}: no end after {LIMIT_SECONDS:.0f} s")
        if due is None and len(rows(folder)) > first + wanted and (saving(folder) or not in_save):
            # A save of the tiny model takes a few hundredths of a second.
            due = now + (chance.uniform(0, 0.05) if in_save else patience)
        if due is not None and now >= due:
            outcome.during_save += saving(folder)
            kill(process)
            outcome.kills += 1
            outcome.at.append(len(rows(folder)))
            return True
        time.sleep(POLL_SECONDS)
    if process.returncode != 0:
        raise RuntimeError(f"exit code {process.returncode}")
    return False


def run_with_kills(
    script: Path, flags: Sequence[object], ranks: int, folder: Path, kills: int, seed: int
) -> Outcome:
    """Start, kill and start again; after `kills` kills the last start runs to the end.

    Args:
        flags: with --checkpoint_steps and --resume_from_checkpoint auto.
        folder: the output_dir among them.

    Raises:
        RuntimeError: a start failed, with the end of what it said.
    """
    outcome, chance = Outcome(), random.Random(seed)
    log = folder.with_suffix(".log")
    try:
        while outcome.kills < kills:
            outcome.starts += 1
            if not kill_once(start(script, flags, ranks, log), folder, chance, outcome):
                return outcome
        outcome.starts += 1
        process = start(script, flags, ranks, log)
        if process.wait(LIMIT_SECONDS) != 0:
            raise RuntimeError(f"exit code {process.returncode}")
    except (RuntimeError, TimeoutError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{error}: {log.read_text()[-3000:]}") from error
    return outcome
