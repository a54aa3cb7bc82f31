"""Folders of resumable checkpoints: whole or not there, verified, kept, of one run only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from dschat.checkpoint import resumable, resume
from dschat.errors import UserError
from dschat.runtime import distributed
from launch import environment, free_port


@dataclass
class Config:
    """Settings of a run."""

    learning_rate: float = 0.1
    data_path: tuple[str, ...] = ("a", "b")
    output_dir: str = "out"
    openai_api_key: str = "not for the disk"
    hub_token: str = "not either"


CONFIG = Config()
HERE = Path(__file__).parent
PATHS = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])


def save(output_dir: Path, step: int, config: Config = CONFIG, **run: Any) -> Path:
    """A checkpoint with a file in a folder; its contents tell its step."""
    with resumable.new_checkpoint(output_dir, step, config, **run) as folder:
        (folder / "engine").mkdir()
        (folder / "engine" / "state.pt").write_bytes(b"state %d" % step * 100)
        (folder / "own.json").write_text(json.dumps({"step": step}))
        assert not (output_dir / f"resumable-{step}").exists()  # not before it is whole
    return output_dir / f"resumable-{step}"


def test_the_seal_names_every_file_with_size_and_checksum(tmp_path: Path) -> None:
    folder = save(tmp_path, 3, prompts=12)
    seal = json.loads((folder / "complete.json").read_text())
    state = (folder / "engine" / "state.pt").read_bytes()
    assert seal["files"]["engine/state.pt"] == [len(state), zlib.crc32(state)]
    assert set(seal["files"]) == {"engine/state.pt", "own.json"}
    found = resumable.read(folder)
    assert (found.step, found.run["prompts"], found.run["world_size"]) == (3, 12, 1)
    assert found.settings["data_path"] == ["a", "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["resumable-3"]


def test_secrets_are_left_out(tmp_path: Path) -> None:
    folder = save(tmp_path, 3)
    assert "not for the disk" not in (folder / "complete.json").read_text()
    assert "not either" not in (folder / "complete.json").read_text()
    resume.check_same_run(resumable.read(folder), replace(CONFIG, openai_api_key="another"))


@pytest.mark.parametrize("harm", ["cut", "changed", "missing", "unsealed", "half a seal", "empty"])
def test_a_damaged_folder_is_refused_by_name_and_skipped_by_auto(
    harm: str, tmp_path: Path, capsys: Any
) -> None:
    save(tmp_path, 9)  # as a word 9 comes after 10: numbers count
    damaged = save(tmp_path, 10)
    state, seal = damaged / "engine" / "state.pt", damaged / "complete.json"
    if harm == "cut":
        state.write_bytes(state.read_bytes()[:-1])
    elif harm == "changed":
        value = bytearray(state.read_bytes())
        value[50] ^= 1
        state.write_bytes(value)
    elif harm == "missing":
        state.unlink()
    elif harm == "unsealed":
        seal.unlink()
    elif harm == "half a seal":
        seal.write_text(seal.read_text()[:40])
    else:
        seal.write_text("{}")
    says = "damaged" if harm in ("cut", "changed", "missing") else "not a complete"
    with pytest.raises(UserError, match=says):
        resumable.choose(tmp_path, str(damaged))
    found = resumable.choose(tmp_path, "auto")
    assert found is not None
    assert found.step == 9
    assert "WARNING: skipped" in capsys.readouterr().out


@pytest.mark.parametrize("request_", ["auto", "by name"])
def test_another_versions_checkpoint_is_refused_with_the_reason(
    request_: str, tmp_path: Path
) -> None:
    """It is whole, so that auto must not start a new run beside it."""
    folder = save(tmp_path, 4)
    seal = json.loads((folder / "complete.json").read_text())
    del seal["format"]
    seal["checksum"] = resumable._own_checksum(seal)
    (folder / "complete.json").write_text(json.dumps(seal))
    with pytest.raises(UserError, match=r"another version.*format 1, expected 2.*start a new run"):
        resumable.choose(tmp_path, "auto" if request_ == "auto" else str(folder))


def test_nothing_to_resume_from(tmp_path: Path, capsys: Any) -> None:
    assert resumable.choose(tmp_path, None) is None
    assert resumable.choose(tmp_path / "not there", "auto") is None
    assert "starting a new run" in capsys.readouterr().out
    with pytest.raises(UserError, match="resumable-N"):
        resumable.choose(tmp_path, str(tmp_path))


def test_a_failure_leaves_nothing_and_the_older_one(tmp_path: Path) -> None:
    older = save(tmp_path, 1)
    with pytest.raises(ValueError, match="in the middle"):  # noqa: PT012, SIM117
        with resumable.new_checkpoint(tmp_path, 2, CONFIG) as folder:
            (folder / "half").write_text("x")
            raise ValueError("in the middle")
    assert list(tmp_path.iterdir()) == [older]
    resumable.read(older)


def test_what_cannot_be_read_back_never_gets_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that loses bytes between writing and reading."""
    seal = resumable.seal

    def losing(folder: Path, *arguments: Any, **run: Any) -> None:
        seal(folder, *arguments, **run)
        (folder / "own.json").write_text("")

    monkeypatch.setattr(resumable, "seal", losing)
    with pytest.raises(UserError, match="own.json has 0 bytes"):
        save(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_in_the_middle_leaves_what_the_next_start_removes(tmp_path: Path) -> None:
    save(tmp_path, 1)
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from test_resumable import CONFIG, resumable\n"
        "with resumable.new_checkpoint(Path(sys.argv[1]), 2, CONFIG) as folder:\n"
        "    (folder / 'half').write_text('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    assert subprocess.run(command, env=environment(PYTHONPATH=PATHS)).returncode == -9
    (tmp_path / ".checkpoint-4.tmp-1-ab").mkdir()  # half a model
    (tmp_path / "models").mkdir()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 4
    assert left[1].startswith(".resumable-2.tmp-")
    found = resumable.choose(tmp_path, "auto")
    assert found is not None
    assert found.step == 1
    resumable.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "resumable-1"]


def test_pruning_keeps_the_newest_written(tmp_path: Path) -> None:
    for step in (2, 4, 6, 10):
        save(tmp_path, step)
    resumable.prune(tmp_path, 2, 10)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["resumable-10", "resumable-6"]
    # Gone back to 6, the run has written 8: 10 is not of its past.
    save(tmp_path, 8)
    resumable.prune(tmp_path, 1, 8)
    assert [p.name for p in tmp_path.iterdir()] == ["resumable-8"]


def test_a_new_run_beside_old_checkpoints_is_refused(tmp_path: Path) -> None:
    resumable.refuse_old_checkpoints(tmp_path)
    save(tmp_path, 7)
    with pytest.raises(UserError, match="resumable-7.*--resume_from_checkpoint auto"):
        resumable.refuse_old_checkpoints(tmp_path)


def test_every_difference_is_named_with_both_values(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = resumable.read(save(tmp_path, 1, rows=5))
    run = resume.ResumableRun(tmp_path, 1, CONFIG, checkpoint)
    resume.check_same_run(checkpoint, replace(CONFIG, output_dir="elsewhere"))
    run.check_data(rows=5)
    assert capsys.readouterr().out == ""
    changed = replace(CONFIG, learning_rate=0.2, data_path=("a",))
    with pytest.raises(UserError) as raised:
        resume.check_same_run(checkpoint, changed)
    for difference in ("--learning_rate 0.1 -> 0.2", "['a', 'b'] -> ['a']"):
        assert difference in str(raised.value)
    with pytest.raises(UserError, match="rows 5 -> 6"):
        run.check_data(rows=6)
    resume.check_same_run(checkpoint, changed, {"learning_rate", "data_path"})
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    with pytest.raises(UserError, match="number of ranks 1 -> 3"):
        resume.check_same_run(checkpoint, CONFIG)


def test_another_version_is_a_warning(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = resumable.read(save(tmp_path, 1))
    versions = {**resumable.library_versions(), "torch": "0.1"}
    monkeypatch.setattr(resume, "library_versions", lambda: versions)
    resume.check_same_run(checkpoint, CONFIG)
    assert "WARNING: torch is 0.1 now" in capsys.readouterr().out


TWO_RANKS = """
import sys
from pathlib import Path
import torch.distributed as dist
from test_resumable import CONFIG, resumable
from dschat.errors import UserError
dist.init_process_group("gloo")
rank, folder = dist.get_rank(), Path(sys.argv[1])
def attempt(step, failing, where):
    try:
        with resumable.new_checkpoint(folder, step, CONFIG) as temporary:
            (temporary / f"rank-{rank}").write_text("x")
            if where == "block" and rank == failing:
                raise UserError(f"the disk of rank {rank} is full")
        print(f"{step} rank {rank} saved", flush=True)
    except UserError as error:
        print(f"{step} rank {rank}: {error}", flush=True)
attempt(1, 1, "block")
attempt(2, 0, "block")
def refused(*arguments, **run):
    raise UserError("the seal cannot be written")
kept, resumable.seal = resumable.seal, refused
attempt(3, 0, "seal")
resumable.seal = kept
attempt(4, None, "")
found = resumable.choose(folder, "auto")
print(f"found by rank {rank}: {found.step} with {sorted(p.name for p in found.folder.iterdir())}")
dist.barrier()
dist.destroy_process_group()
"""


def test_a_failure_on_one_rank_reaches_all(tmp_path: Path) -> None:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "PYTHONPATH": PATHS}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_RANKS, str(tmp_path)],
            env={**environment(), **place, "RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    told = "".join(process.communicate(timeout=600)[0] for process in ranks)
    for rank in (0, 1):
        assert f"1 rank {rank}: the disk of rank 1 is full" in told
        assert f"2 rank {rank}: the disk of rank 0 is full" in told
        assert f"3 rank {rank}: the seal cannot be written" in told
        assert f"4 rank {rank} saved" in told
        assert f"found by rank {rank}: 4 with ['complete.json', 'rank-0', 'rank-1']" in told
    assert [path.name for path in tmp_path.iterdir()] == ["resumable-4"]
