"""Run a script as a user does: with `python`, or with the DeepSpeed launcher on several ranks."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TRAINING = ROOT / "applications" / "DeepSpeed-Chat" / "training"
MULTI_REFERENCE = ROOT / "applications" / "Multi-Reference"
DPO = MULTI_REFERENCE / "dpo_training.py"
STEP1 = TRAINING / "step1_supervised_finetuning" / "main.py"
STEP2 = TRAINING / "step2_reward_model_finetuning" / "main.py"


def free_port() -> int:
    """A TCP port that nothing listens on.

    It is used seconds later. One that the system hands out (from 32768 on) might be another
    process's by then: two ranks alone open a dozen connections.
    """
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def environment(**variables: str) -> dict[str, str]:
    """This process's environment on CPU, without a process group of its own."""
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "MASTER_ADDR")
        and not name.startswith(("MASTER_", "ACCELERATE_"))
    }
    # The launcher starts the interpreter it finds, and DeepSpeed builds with the ninja it finds.
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
    env |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return {**env, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **variables}


def run_script(
    script: str | Path,
    args: Sequence[object],
    ranks: int = 1,
    timeout: float = 600.0,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `script` with `args`, on 2 or more ranks through `deepspeed --num_accelerators`.

    Args:
        script: path of the script.
        args: its arguments, turned into strings.
        ranks: 1: plain `python`.
        timeout: seconds; all processes are killed after it.
        env: instead of `environment()`.

    Returns:
        The finished process, with stdout and stderr as text; the exit code is not checked.
    """
    command = [sys.executable]
    if ranks > 1:
        launcher = ["-m", "deepspeed.launcher.runner", "--num_accelerators", str(ranks)]
        command += [*launcher, "--master_port", str(free_port())]
    command += [str(script), *map(str, args)]
    process = subprocess.Popen(
        command,
        env=environment() if env is None else env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)
