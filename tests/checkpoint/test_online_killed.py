"""SIGKILL at random moments, saves included: the run that is left equals one without kills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dpo_fixtures import command_line
from killing import rows, run_with_kills
from launch import TRAINING, run_script
from online_fixtures import online_settings
from safetensors.torch import load_file

STEP3 = TRAINING / "step3_rlhf_finetuning"
SETTINGS: dict[str, tuple[str, int, dict[str, Any]]] = {
    f"{script}-zero{stage}-ranks{ranks}": (
        f"{script}.py",
        ranks,
        {"actor_zero_stage": stage, "critic_zero_stage": stage, **changes},
    )
    for script, changes in (
        ("main", {"enable_ema": True}),
        ("main_wpr", {"cost_dim": 8, "top_k": 8, "epsilon": 1.0}),
    )
    for stage in (0, 2, 3)
    for ranks in (1, 2)
}
SAMPLES = ("main-zero0-ranks1", "main_wpr-zero2-ranks2", "main-zero3-ranks1")


def check_same_weights(one: Path, other: Path) -> None:
    """Bit for bit, of all models that the runs leave."""
    files = sorted(path.relative_to(one) for path in one.glob("step-*/*/model.safetensors"))
    assert files, "there is no final model"
    for file in files:
        a, b = load_file(one / file), load_file(other / file)
        assert a.keys() == b.keys()
        assert not [name for name in a if not torch.equal(a[name], b[name])], file


@pytest.mark.parametrize(
    ("name", "kills"),
    [
        *(pytest.param(name, 2, marks=pytest.mark.slow) for name in SAMPLES),
        *(pytest.param(name, 10, marks=pytest.mark.nightly) for name in SETTINGS),
    ],
)
def test_killed_runs_end_as_the_uninterrupted_one(
    name: str, kills: int, tiny_model_dir: Path, tiny_reward_dir: Path, tmp_path: Path
) -> None:
    script, ranks, changes = SETTINGS[name]

    def flags(output: str, **more: Any) -> list[str]:
        batch = {
            "per_device_generation_batch_size": 4 // ranks,
            "per_device_training_batch_size": 4 // ranks,
            "gradient_accumulation_steps": 1,
            "num_train_epochs": 2,
        }
        changed = {**batch, **changes, "output_dir": str(tmp_path / output), **more}
        return command_line(online_settings(tmp_path, tiny_model_dir, tiny_reward_dir, **changed))

    whole = run_script(STEP3 / script, flags("whole"), ranks)
    assert whole.returncode == 0, whole.stderr[-3000:]
    resumed = flags("killed", checkpoint_steps=1, resume_from_checkpoint="auto")
    outcome = run_with_kills(STEP3 / script, resumed, ranks, tmp_path / "killed", kills, seed=5)
    print(f"{outcome.during_save} during a save, after iterations {outcome.at}")
    assert outcome.kills == kills
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    check_same_weights(tmp_path / "whole", tmp_path / "killed")
