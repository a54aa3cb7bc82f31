"""Ranks under srun and mpirun: variables as these programs set them, and a run by each kind."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from dschat.errors import UserError
from dschat.runtime.launchers import FIRST_PORT, PORTS, adopt_launcher, first_host
from launch import environment

# Recorded: SLURM 22.05 `srun -N2 -n4`, rank 3; Open MPI 4.1 and MPICH 4.0 `mpirun -n 2`, rank 1.
SRUN = {
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "4",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_JOB_ID": "2",
    "SLURM_STEP_ID": "0",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
# In a batch script, before srun: one process, although the job has four tasks.
BATCH = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "3"}


def adopted(variables: dict[str, str]) -> dict[str, str]:
    env = dict(variables)
    adopt_launcher(env)
    return {name: env[name] for name in env if name not in variables}


def test_ranks_of_srun() -> None:
    found = adopted(SRUN)
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"]) == ("3", "4", "0")
    assert found["MASTER_ADDR"] == "n1"
    assert FIRST_PORT <= int(found["MASTER_PORT"]) < FIRST_PORT + PORTS
    assert found["MASTER_PORT"] == adopted(SRUN | {"SLURM_PROCID": "1"})["MASTER_PORT"]
    assert found["MASTER_PORT"] != adopted(SRUN | {"SLURM_JOB_ID": "9"})["MASTER_PORT"]


@pytest.mark.parametrize("variables", [OPEN_MPI, MPICH], ids=["open mpi", "mpich"])
def test_ranks_of_mpirun_on_one_node(variables: dict[str, str]) -> None:
    found = adopted(variables)
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"]) == ("1", "2", "1")
    assert found["MASTER_ADDR"] == "127.0.0.1"


def test_mpirun_on_several_nodes_needs_the_address_of_rank_0() -> None:
    nodes = OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
    with pytest.raises(UserError, match="mpirun -x MASTER_ADDR"):
        adopted(nodes)
    assert adopted(nodes | {"MASTER_ADDR": "a"})["RANK"] == "1"


def test_a_process_that_does_not_know_its_place_is_refused() -> None:
    with pytest.raises(UserError, match="MPI_LOCALRANKID is not set"):
        adopted({"PMI_RANK": "1", "PMI_SIZE": "2"})


@pytest.mark.parametrize(
    "variables",
    [{}, BATCH, SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, SRUN | {"RANK": "0", "WORLD_SIZE": "2"}],
    ids=["none", "batch script", "one task", "torchrun under srun"],
)
def test_nothing_is_changed(variables: dict[str, str]) -> None:
    assert adopted(variables) == {}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node", "node"),
        ("a,b", "a"),
        ("n[1-2]", "n1"),
        ("gpu[003-005,9],a1", "gpu003"),
        ("c[07,09]-ib", "c07-ib"),
        ("rack-1-n12,rack-2-n[1-4]", "rack-1-n12"),
    ],
)
def test_first_host(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_processes_of_srun_are_one_run(tmp_path: Path) -> None:
    """What each of them would do alone: write a config.yaml of one rank into the same folder."""
    code = (
        "from dschat.runtime import distributed as d, script\n"
        "import json, sys\n"
        "def main():\n"
        "    d.init_distributed()\n"
        "    sums = d.gather_objects(d.rank())\n"
        "    d.is_main() and open(sys.argv[1], 'w').write(json.dumps([d.world_size(), sums]))\n"
        "    d.shut_down()\n"
        "script.run_script(main)\n"
    )
    job = str(random.SystemRandom().randrange(10**6))  # another port than others' tests
    step = SRUN | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_ID": job}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "found.json")],
            env=environment(**step | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}),
        )
        for i in range(2)
    ]
    try:
        assert [p.wait(timeout=120) for p in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    assert json.loads((tmp_path / "found.json").read_text()) == [2, [0, 1]]
