"""Run a script as a user does: with `python`, or with the DeepSpeed launcher on several ranks."""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import fork_server

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


@cache
def fork_server_socket() -> str:
    """Start this process's server; it ends when this process does."""
    folder = tempfile.TemporaryDirectory(prefix="forks-")
    atexit.register(folder.cleanup)
    path = os.path.join(folder.name, "socket")
    with open(os.path.join(folder.name, "log"), "wb") as log:
        server = subprocess.Popen(
            [sys.executable, fork_server.__file__, "serve", path],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert server.stdin is not None
    assert server.stdout is not None
    atexit.register(server.stdin.close)
    for line in server.stdout:
        if line == b"ready\n":
            return path
    raise RuntimeError(Path(log.name).read_text())


@cache
def python_that_forks() -> str:
    """A folder for PATH with a `python` that has the fork server run scripts and modules."""
    folder = Path(fork_server_socket()).parent / "bin"
    folder.mkdir()
    client = [sys.executable, "-S", "-E", fork_server.__file__, "run", fork_server_socket(), "1"]
    (folder / "python").write_text(
        "#!/bin/sh\n"
        f'case "$1" in -m | *.py) exec {shlex.join(client)} 0 "$@" ;; esac\n'
        f'exec {shlex.quote(sys.executable)} "$@"\n'
    )
    (folder / "python").chmod(0o755)
    return str(folder)


def command(
    arguments: Sequence[object], ranks: int, env: dict[str, str], launcher: bool = False
) -> list[str]:
    """The command line for `python ARGUMENTS`, or for the launcher with more than one rank.

    Args:
        env: what it will be started with. Where libraries read other values from it than from
            `environment()`, no fork server is used.
        launcher: use DeepSpeed's own in any case.
    """
    words = list(map(str, arguments))
    alike = fork_server.read_at_import(env) == fork_server.read_at_import(environment())
    if alike and not launcher:
        client = [sys.executable, "-S", "-E", fork_server.__file__, "run", fork_server_socket()]
        return [*client, str(ranks), str(free_port()), *words]
    if ranks == 1 and not launcher:
        return [sys.executable, *words]
    runner = ["-m", "deepspeed.launcher.runner", "--num_accelerators", str(ranks)]
    return [sys.executable, *runner, "--master_port", str(free_port()), *words]


def run_script(
    script: str | Path,
    args: Sequence[object],
    ranks: int = 1,
    timeout: float = 600.0,
    env: dict[str, str] | None = None,
    launcher: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run `script` with `args`, on 2 or more ranks as `deepspeed --num_accelerators` does.

    Args:
        script: path of the script.
        args: its arguments, turned into strings.
        ranks: 1: as plain `python`.
        timeout: seconds; all processes are killed after it.
        env: instead of `environment()`.
        launcher: see `command`.

    Returns:
        The finished process, with stdout and stderr as text; the exit code is not checked.
    """
    env = environment() if env is None else env
    words = command([script, *args], ranks, env, launcher)
    process = subprocess.Popen(
        words,
        env=env,
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
    return subprocess.CompletedProcess(words, process.returncode, out, err)
