"""Ranks under srun and mpirun: variables as these programs set them, and a run by each kind."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from dschat.errors import UserError
from dschat.runtime.distributed import check_ranks
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


def test_what_a_batch_script_has_exported_for_all_tasks_is_kept() -> None:
    exported = SRUN | {"WORLD_SIZE": "4", "MASTER_ADDR": "n9", "MASTER_PORT": "29500"}
    assert adopted(exported) == {"RANK": "3", "LOCAL_RANK": "0"}
    assert adopted(exported | {"RANK": "2"}) == {"LOCAL_RANK": "0"}


def test_a_step_without_its_own_number_of_tasks_has_that_of_the_job() -> None:
    step = {name: value for name, value in SRUN.items() if name != "SLURM_STEP_NUM_TASKS"}
    assert adopted(step)["WORLD_SIZE"] == "4"


def test_several_ranks_without_a_rank_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="RANK is not set"):
        check_ranks()


@pytest.mark.parametrize(("processes", "refused"), [(1, False), (2, True)])
def test_accelerate_that_starts_one_process_of_several(processes: int, refused: bool) -> None:
    """accelerate's own launcher, on a script that reads what it was given."""
    code = "import dschat.runtime.launchers as l; l.adopt_launcher()"
    call = ["accelerate.commands.launch", "--cpu", "--num_processes", str(processes)]
    call += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    run = subprocess.run(
        [sys.executable, "-m", *call, "--no_python", sys.executable, "-c", code],
        env={k: v for k, v in environment().items() if k != "MASTER_ADDR"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (run.returncode != 0) == refused, run.stderr
    assert ("accelerate launch was asked for several" in run.stderr) == refused


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
