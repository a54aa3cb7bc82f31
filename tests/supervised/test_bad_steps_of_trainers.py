"""NaN and infinity in steps 1, 2 and DPO: the step is skipped, counted and kept."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dpo_fixtures import command_line
from dschat.errors import UserError
from dschat.supervised.dpo_trainer import MultiReferenceTrainer
from dschat.supervised.reward_modeling import PreferenceTrainer
from dschat.supervised.sft import SupervisedTrainer
from dschat.supervised.trainer import CheckedEngine
from launch import STEP1
from online_fixtures import updates_of
from resume_fixtures import metrics, models_in, run_with_fault, stop_at
from safetensors.torch import load_file

TRAINERS = {"sft": SupervisedTrainer, "reward": PreferenceTrainer, "dpo": MultiReferenceTrainer}
Run = Callable[..., Path]


@pytest.fixture
def run(train: Any, tmp_path: Path) -> Run:
    """Runs one epoch of a kind of step; gives its folder."""

    def run_kind(kind: str, **flags: Any) -> Path:
        train(kind, **{"learning_rate": 1e-3, "num_train_epochs": 1, **flags})
        return tmp_path / "out"

    return run_kind


def spoil(
    monkeypatch: pytest.MonkeyPatch, kind: str, calls: set[int], what: str = "loss"
) -> list[torch.Tensor]:
    """Make the loss, or its gradient alone, NaN in these micro-steps (from 1 on).

    Returns:
        All weights after each optimiser step, filled as the run goes on.
    """
    trainer, weights, count = TRAINERS[kind], [], itertools.count(1)
    loss_of, backward = trainer.compute_loss, CheckedEngine.backward

    def spoilt(self: Any, *arguments: Any, **options: Any) -> Any:
        loss = loss_of(self, *arguments, **options)
        if next(count) not in calls:
            return loss
        if what == "loss":
            return loss * math.nan
        return loss + (loss - loss.detach()).clamp(min=0).sqrt()  # slope 1/0 at 0

    def noted(self: Any, loss: Any, sync_gradients: bool = True, **options: Any) -> None:
        backward(self, loss, sync_gradients, **options)
        if sync_gradients:
            weights.append(updates_of(self.engine))

    monkeypatch.setattr(trainer, "compute_loss", spoilt)
    monkeypatch.setattr(CheckedEngine, "backward", noted)
    return weights


@pytest.mark.parametrize(
    ("kind", "stage", "what"),
    [
        ("sft", 0, "loss"),
        ("sft", 2, "gradient"),
        ("reward", 3, "loss"),
        ("reward", 0, "gradient"),
        ("dpo", 2, "loss"),
    ],
)
def test_a_bad_step_is_skipped_and_the_others_are_not(
    run: Run, monkeypatch: pytest.MonkeyPatch, kind: str, stage: int, what: str
) -> None:
    weights = spoil(monkeypatch, kind, {4}, what)
    output = run(kind, zero_stage=stage)
    same = [torch.equal(a, b) for a, b in itertools.pairwise(weights)]
    assert same == [True, False, False]  # the second of four
    rows = metrics(output)[1:]
    assert [row["skipped"] for row in rows] == [0, 1, 0, 0]
    assert [row["bad_steps"] for row in rows] == [0, 1, 1, 1]
    # One bad loss does not spoil the later rows; the schedule waits for the step.
    assert [row["loss"] is None for row in rows] == [False, True, False, False]
    rates = [row["learning_rate"] for row in rows]
    assert rates[0] > rates[1] == rates[2] > rates[3]
    (weights_file,) = models_in(output)
    assert all(value.isfinite().all() for value in load_file(weights_file).values())
    (kept,) = (output / "bad_steps").iterdir()
    assert kept.name == "step-2-bad-1-rank-0.jsonl"
    found = [json.loads(line) for line in kept.read_text().splitlines()]
    assert len(found) == (4 if kind == "sft" else 8)  # of both micro-batches
    assert all("Name number" in row["text"] for row in found)
    losses = [row["loss_of_micro_batch"] for row in found]
    assert losses.count("nan") == (len(found) // 2 if what == "loss" else 0)


def test_a_run_that_does_not_recover_stops_with_a_report(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = spoil(monkeypatch, "sft", set(range(3, 9)), "gradient")
    with pytest.raises(UserError, match="2 bad steps in a row") as caught:
        run("sft", max_bad_steps=2)
    for part in ("step 3: the gradient is not finite on rank 0 for ", "Name number", "bad_steps"):
        assert part in str(caught.value)
    assert len(weights) == 2  # not the third: that one raised
    assert not models_in(tmp_path / "out")


def test_bad_steps_are_counted_across_an_interruption(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        spoil(patch, "sft", {1, 3, 5})
        stop_at(patch, 2)
        run("sft")
    assert (tmp_path / "out" / "resumable-2").is_dir()
    with monkeypatch.context() as patch:
        spoil(patch, "sft", {1})
        with pytest.raises(UserError, match="3 bad steps in a row"):
            run("sft", resume_from_checkpoint="auto")


@pytest.mark.slow
def test_a_bad_loss_on_one_rank_skips_the_step_on_both(
    settings: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    flags: dict[str, Any] = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    flags |= {"zero_stage": 2, "data_split": "1,0,0"}
    made = settings(model_name_or_path=tiny_model_dir, num_train_epochs=1, **flags)
    done = run_with_fault(STEP1, "nan:3", command_line(made), ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 2: step skipped: the loss is not finite on rank 1 for " in done.stdout
    output = tmp_path / "out"
    assert [row["skipped"] for row in metrics(output)[1:]] == [0, 1, 0, 0]
    kept = sorted(path.name for path in (output / "bad_steps").iterdir())
    assert kept == [f"step-2-bad-1-rank-{rank}.jsonl" for rank in (0, 1)]
    (weights,) = models_in(output)
    assert all(value.isfinite().all() for value in load_file(weights).values())
