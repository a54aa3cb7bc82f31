"""Ranks under launchers that do not set torch's variables: SLURM's srun and MPI's mpirun.

torch and DeepSpeed read RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, which deepspeed,
torchrun and accelerate set. Without them each process of `srun python main.py` would be a run of
one rank, and all of them would write into one folder.

Nothing here imports torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping
from dataclasses import dataclass

from dschat.errors import UserError

FIRST_PORT, PORTS = 20_000, 10_000
"""Of MASTER_PORT: below the ports that Linux gives to outgoing connections (from 32768 on)."""


@dataclass(frozen=True)
class Launcher:
    """A launcher by the variables it gives to each process.

    Attributes:
        name: for messages.
        rank, size: of the process among all. A size of 1 is no launcher's business.
        local_rank: among those of its node.
        local_size: processes on its node; None where nodes are known otherwise (SLURM).
    """

    name: str
    rank: str
    size: str
    local_rank: str
    local_size: str | None


# SLURM_NTASKS also stands in a batch script, whose commands are one process; the variables of a
# step come from srun. srun may speak PMI to its tasks, so it is asked first.
LAUNCHERS = (
    Launcher("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", None),
    Launcher(
        "Open MPI's mpirun",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    Launcher("mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)


def adopt_launcher(env: MutableMapping[str, str] | None = None) -> None:
    """Set torch's variables from those of srun or mpirun, where no other launcher has set them.

    What is set stays: batch scripts often export WORLD_SIZE and MASTER_ADDR for all tasks, and
    leave RANK to the script.

    Args:
        env: the environment to read and to add to; None: this process's.

    Raises:
        UserError: there are several processes, and their place cannot be told from the variables;
            accelerate was asked for several and has started one.
    """
    env = os.environ if env is None else env
    if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= env.keys():
        return
    for launcher in LAUNCHERS:
        size = _size(launcher, env)
        if not size.isdecimal() or int(size) < 2 or env.get("WORLD_SIZE", size) != size:
            continue
        missing = [
            n for n in (launcher.rank, launcher.local_rank) if not env.get(n, "").isdecimal()
        ]
        if missing:
            raise UserError(
                f"This is one of {size} processes ({launcher.size}), but {launcher.name} does not "
                f"say which: {missing[0]} is not set. Start the script with srun, torchrun or "
                "deepspeed, or set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT."
            )
        if "MASTER_ADDR" not in env:
            env["MASTER_ADDR"] = _master(launcher, env)
        env.setdefault("MASTER_PORT", str(_port(env)))
        env.setdefault("RANK", env[launcher.rank])
        env.setdefault("WORLD_SIZE", size)
        env.setdefault("LOCAL_RANK", env[launcher.local_rank])
        return
    _refuse_lone_accelerate(env)


def _size(launcher: Launcher, env: MutableMapping[str, str]) -> str:
    """The number of processes as the launcher gives it; "" if it gives none."""
    if launcher.size not in env and launcher.size.startswith("SLURM") and "SLURM_STEP_ID" in env:
        return env.get("SLURM_NTASKS", "")  # in a step the job's number is the next best
    return env.get(launcher.size, "")


def _refuse_lone_accelerate(env: MutableMapping[str, str]) -> None:
    """`accelerate launch --cpu --num_processes N` starts one process, and tells it nothing of N.

    It sets MASTER_ADDR for several processes only, and RANK for those that it starts by torchrun.
    """
    several = "ACCELERATE_MIXED_PRECISION" in env and "MASTER_ADDR" in env
    if several and not {"RANK", "WORLD_SIZE"} & env.keys():
        raise UserError(
            "accelerate launch was asked for several processes and has started this one only, as "
            "it does with --cpu. Use --multi_gpu instead of --cpu (it works without a GPU too) or "
            "torchrun. For one process give --num_processes 1, and unset MASTER_ADDR."
        )


def _master(launcher: Launcher, env: MutableMapping[str, str]) -> str:
    """The host of rank 0."""
    if launcher.local_size is None:
        if env.get("SLURM_STEP_NUM_NODES", "1") == "1":
            return "127.0.0.1"
        return first_host(env["SLURM_STEP_NODELIST"])
    if env.get(launcher.local_size) == env[launcher.size]:
        return "127.0.0.1"
    raise UserError(
        f"{launcher.name} has started {env[launcher.size]} processes on several nodes, and does "
        "not say where rank 0 is. Set MASTER_ADDR to the first node and MASTER_PORT to a free port "
        "on it (Open MPI: mpirun -x MASTER_ADDR=node1 -x MASTER_PORT=29500 ...)."
    )


def first_host(nodes: str) -> str:
    """The first name in SLURM's short form of several: "gpu[003-005,9],a1" -> "gpu003"."""
    found = re.match(r"([^\[,]*)(?:\[([^\],-]+)[^\]]*\])?([^,\[]*)", nodes)
    assert found is not None  # every part may be empty
    return "".join(part or "" for part in found.groups())


def _port(env: MutableMapping[str, str]) -> int:
    """The same on all ranks, another for other jobs: by the job, or on one node by the parent."""
    job = env.get("SLURM_JOB_ID", "")
    step = env.get("SLURM_STEP_ID", "")
    if job.isdecimal():
        number = int(job) * 31 + (int(step) if step.isdecimal() else 0)
    else:
        number = os.getppid()  # mpirun, or its proxy
    return FIRST_PORT + number % PORTS
