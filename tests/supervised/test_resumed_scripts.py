"""Runs on two ranks that are stopped, killed, or left without disk, and resumed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from dpo_fixtures import command_line
from launch import DPO, STEP1, STEP2, run_script
from resume_fixtures import (
    assert_same_run,
    checkpoints,
    compare_with_uninterrupted,
    metrics,
    models_in,
    run_with_fault,
)

pytestmark = pytest.mark.slow
Flags = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def flags(
    preference_dir: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Flags:
    """The command line of step 1 with a folder of the given name; 2 epochs of 4 steps."""
    root = tmp_path_factory.mktemp("resumed")

    def make(name: str) -> list[str]:
        return command_line(
            {
                "data_path": preference_dir,
                "data_output_path": preference_dir / "prepared",
                "model_name_or_path": tiny_model_dir,
                "data_split": "1,0,0",
                "per_device_train_batch_size": 1,
                "gradient_accumulation_steps": 2,
                "num_train_epochs": 2,
                "max_seq_len": 64,
                "learning_rate": 1e-2,
                "dropout": 0.1,
                "zero_stage": 3,
                "deepspeed": True,
                "output_dir": root / name,
            }
        )

    return make


@pytest.fixture(scope="module")
def whole(flags: Flags) -> Path:
    """The folder of the uninterrupted run."""
    done = run_script(STEP1, flags("whole"), ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(flags("whole")[-1])


def test_sigterm_to_one_rank_stops_both_and_the_run_is_resumed(flags: Flags, whole: Path) -> None:
    output = whole.with_name("stopped")
    auto = [*flags("stopped"), "--resume_from_checkpoint", "auto"]
    done = run_with_fault(STEP1, "stop:6", auto, ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Stopped by SIGTERM after saving {output / 'resumable-6'}" in done.stdout
    assert done.stdout.count("Stopped by SIGTERM") == 1
    assert not models_in(output)
    # Another number of ranks would be another run.
    alone = run_script(STEP1, auto)
    assert alone.returncode == 1
    assert "number of ranks 2 -> 1" in alone.stderr
    done = run_script(STEP1, auto, ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    # Within the second epoch, whose rows come in an order of its own.
    assert_same_run(output, whole)


def test_a_full_disk_and_a_kill_leave_the_older_checkpoint(flags: Flags, whole: Path) -> None:
    output = whole.with_name("killed")
    auto = [*flags("killed"), "--resume_from_checkpoint", "auto", "--checkpoint_steps", "3"]
    done = run_with_fault(STEP1, "full:6", auto, ranks=2)
    assert done.returncode == 1
    assert "The disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert checkpoints(output) == ["resumable-3"]

    done = run_with_fault(STEP1, "kill:6", auto, ranks=2)
    assert done.returncode not in (0, 1)
    left = checkpoints(output)
    assert left[-1] == "resumable-3"
    assert len(left) == 2
    assert left[0].startswith(".resumable-6.tmp-")
    # A folder without its seal is not picked up either, whatever its name.
    shutil.copytree(output / left[0], output / "resumable-7")

    done = run_script(STEP1, auto, ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" in done.stdout
    assert f"resuming from {output / 'resumable-3'}" in done.stdout
    assert checkpoints(output) == ["resumable-6"]
    assert_same_run(output, whole)


@pytest.mark.parametrize("stage", [2])
def test_a_reward_model_is_resumed_on_two_ranks(
    stage: int, preference_dir: Path, tiny_reward_dir: Path, tmp_path: Path
) -> None:
    flags = {
        "data_path": preference_dir,
        "data_output_path": preference_dir / "prepared",
        "model_name_or_path": tiny_reward_dir,
        "data_split": "0,1,0",
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 2,
        "max_seq_len": 64,
        "learning_rate": 1e-2,
        "dropout": 0.1,
        "eval_interval": 3,  # micro-steps: not at the ends of optimiser steps
        "zero_stage": stage,
        "deepspeed": True,
    }
    compare_with_uninterrupted(STEP2, command_line(flags), tmp_path, 3, ranks=2)
    assert len({row["loss"] for row in metrics(tmp_path / "whole") if "loss" in row}) > 3


@pytest.mark.parametrize("stage", [2])
def test_dpo_is_resumed_on_two_ranks(
    stage: int, preference_dir: Path, dpo_models: dict[str, str], tmp_path: Path
) -> None:
    flags = {
        "dataset": preference_dir,
        "data_output_path": preference_dir / "prepared",
        "ref_a": dpo_models["a"],
        "ref_b": dpo_models["b"],
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 2,
        "max_length": 64,
        "learning_rate": 1e-3,
        "logging_steps": 2,  # the checkpoint comes between two rows
        "zero_stage": stage,
    }
    compare_with_uninterrupted(DPO, command_line(flags), tmp_path, 3, ranks=2)
    assert len({row["loss"] for row in metrics(tmp_path / "whole") if "loss" in row}) > 2
