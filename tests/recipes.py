"""How the tests of the recipes start them, and what a recipe's commands mean."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_lines import command_line
from dschat.settings.command_line import Settings
from launch import ROOT, environment, python_that_forks

POLICIES = {
    "tldr": "kl wpr ma fkl js alpha tv chi",
    "hh-rlhf": "kl wpr ma fkl js alpha tv chi",
    "webgpt": "kl wpr ma fkl js alpha tv chi",
    "apps": "kl wpr ma",
    "gsm8k": "",
    "ultrafeedback": "",
}
"""Recipe -> all policies that it can train."""


@dataclass(frozen=True)
class Command:
    """A command of a recipe.

    Attributes:
        launcher: what stands before the script.
        script: its last two parts, or the module's name.
        flags: what comes after it.
    """

    launcher: list[str]
    script: str
    flags: list[str]

    def config(self) -> Any:
        """The settings, parsed and validated as the script does."""
        return command_line(self.script).parse(self.flags)

    def settings(self) -> dict[str, Any]:
        config = self.config()
        is_settings = isinstance(config, Settings)
        return config.as_flags() if is_settings else dataclasses.asdict(config)

    def names(self) -> list[str]:
        """The flags without their values."""
        return [word for word in self.flags if word.startswith("--")]


def run_recipe(script: str, timeout: float = 60.0, **variables: str) -> tuple[int, str]:
    """Exit code and output of scripts/`script` with these environment variables, on the CPU."""
    env = environment(VENV="none", **variables)
    del env["HF_HUB_OFFLINE"]  # a recipe sets it where it must be set
    if "DRY_RUN" not in variables:
        env["PATH"] = os.pathsep.join([python_that_forks(), env["PATH"]])
    process = subprocess.Popen(
        ["bash", str(ROOT / "scripts" / script)],
        env=env,
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        told, _ = process.communicate(timeout=timeout)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return process.returncode, told


def commands(recipe: str, **variables: str) -> list[Command]:
    """What scripts/RECIPE/run_all.sh would run."""
    settings = {"GPUS": "0,1,2,3,4,5,6,7", "POLICIES": POLICIES[recipe], **variables}
    code, told = run_recipe(f"{recipe}/run_all.sh", DRY_RUN="1", **settings)
    assert code == 0, told
    return [command_of(line) for line in told.splitlines()]


def command_of(line: str) -> Command:
    """A line of a dry run, or a command of the README."""
    words = shlex.split(line)
    at = next(
        i for i, w in enumerate(words) if re.search(r"\.py$|^dschat\.", w) and "smoke.py" not in w
    )
    script = "/".join(Path(words[at]).parts[-2:])
    return Command(words[:at], script, words[at + 1 :])
