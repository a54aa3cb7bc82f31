"""Steps 1, 2 and DPO resumed after SIGTERM, in this process: the uninterrupted run again."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.checkpoint import resumable
from dschat.errors import UserError
from preferences import rows
from resume_fixtures import (
    assert_same_run,
    checkpoints,
    metrics,
    models_in,
    stop_at,
)

Output = tuple[dict[str, float], str]
FLAGS: dict[str, dict[str, Any]] = {
    # 3 epochs of 4 optimiser steps.
    "sft": {"num_train_epochs": 3, "dropout": 0.1},
    # Evaluates and saves every 3 micro-steps, which are not optimiser steps.
    "reward": {
        "num_train_epochs": 2,
        "dropout": 0.1,
        "eval_interval": 3,
        "lr_scheduler_type": "linear",
        "num_warmup_steps": 3,
    },
    # Rows are means over 3 optimiser steps.
    "dpo": {"num_train_epochs": 2, "logging_steps": 3, "eval_steps": 2, "save_steps": 4},
}


@pytest.fixture
def run(train: Any, dpo_models: dict[str, str], capsys: Any) -> Callable[..., Output]:
    """Runs a kind of step into a folder of the given name; gives its result and output."""

    def run_kind(kind: str, name: str, **flags: Any) -> Output:
        references = {"refs": [dpo_models["a"], dpo_models["b"]]} if kind == "dpo" else {}
        result = train(kind, name, **{**FLAGS[kind], **references, **flags})
        return result, capsys.readouterr().out

    return run_kind


@pytest.fixture
def sft(run: Any) -> Callable[..., Output]:
    return functools.partial(run, "sft")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "stop", "flags"),
    [
        ("sft", 6, {"zero_stage": 2, "lora_dim": 2, "lora_module_name": "model.layers."}),
        ("sft", 4, {"gradient_checkpointing": True}),  # the checkpoint ends an epoch
        ("sft", 7, {"zero_stage": 3, "dtype": "bf16"}),
        ("reward", 5, {"zero_stage": 3}),
        ("reward", 2, {"lora_dim": 2, "lora_module_name": "layers.", "only_optimize_lora": True}),
        ("dpo", 2, {"zero_stage": 2}),  # between two rows of means
        ("dpo", 4, {"zero_stage": 3, "lora_dim": 2, "kl_type": "fkl", "max_steps": 9}),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    step: str,
    stop: int,
    flags: dict[str, Any],
    run: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = functools.partial(run, step)
    whole, _ = run("whole", **flags)
    with monkeypatch.context() as patch:
        stop_at(patch, stop)
        _, told = run("resumed", **flags)
    assert checkpoints(tmp_path / "resumed") == [f"resumable-{stop}"]
    folder = tmp_path / "resumed" / f"resumable-{stop}"
    assert f"Stopped by SIGTERM after saving {folder}" in told
    assert not (tmp_path / "resumed" / "config.json").exists()
    result, told = run("resumed", **flags, resume_from_checkpoint="auto")
    assert f"resuming from {folder}" in told
    assert result == pytest.approx(whole, rel=1e-6)
    assert_same_run(tmp_path / "resumed", tmp_path / "whole", tolerance=1e-6)


def test_checkpoints_change_nothing_and_any_of_them_will_do(
    sft: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sft("whole")
    sft("often", checkpoint_steps=2, checkpoint_keep=3)
    assert_same_run(tmp_path / "often", tmp_path / "whole", tolerance=0)
    kept = ["resumable-10", "resumable-6", "resumable-8"]  # none at the end, step 12
    assert checkpoints(tmp_path / "often") == kept
    # A folder of its own, from an older checkpoint, which is left alone.
    older = tmp_path / "often" / "resumable-6"
    sft("elsewhere", resume_from_checkpoint=str(older))
    assert_same_run(tmp_path / "elsewhere", tmp_path / "whole", tolerance=1e-6)
    assert checkpoints(tmp_path / "elsewhere") == []
    # A damaged one is skipped; the run is not finished where its model is gone.
    (tmp_path / "often" / "resumable-10" / "rank-0.pt").write_bytes(b"damaged")
    (tmp_path / "often" / "config.json").unlink()
    _, told = sft("often", resume_from_checkpoint="auto", checkpoint_steps=5)
    assert "skipped" in told
    assert f"resuming from {tmp_path / 'often' / 'resumable-8'}" in told
    assert checkpoints(tmp_path / "often") == ["resumable-10"]
    resumable.read(tmp_path / "often" / "resumable-10")
    assert_same_run(tmp_path / "often", tmp_path / "whole", tolerance=1e-6)


def test_auto_starts_and_ends(sft: Any, tmp_path: Path) -> None:
    first, told = sft("run", resume_from_checkpoint="auto")
    assert "starting a new run" in told
    written = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    again, told = sft("run", resume_from_checkpoint="auto")
    assert again == first
    assert f"The run in {tmp_path / 'run'} is finished" in told
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(UserError, match="--learning_rate 0.01 -> 0.5"):
        sft("run", resume_from_checkpoint="auto", learning_rate=0.5)
    # Without the flag it is another run, as it has always been; then nothing is finished.
    sft("run", num_train_epochs=1)
    assert len(metrics(tmp_path / "run")) == 5


def test_only_the_same_run_is_resumed(
    sft: Any, preference_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        sft("run", checkpoint_steps=1)
    before = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(UserError, match="already holds resumable-3.*auto"):
        sft("run")
    with pytest.raises(UserError, match="--seed 1234 -> 1; --zero_stage 0 -> 1"):
        sft("run", resume_from_checkpoint="auto", seed=1, zero_stage=1)
    with pytest.raises(UserError, match="not a complete checkpoint"):
        sft("run", resume_from_checkpoint=str(tmp_path / "run" / "resumable-99"))
    # The same path with other rows in it.
    data = tmp_path / "data"
    shutil.copytree(preference_dir, data)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        sft("changed", data_path=[str(data)], data_output_path=None)
    shown = metrics(tmp_path / "changed")
    for count, says in ((16, "checksum of the rows"), (15, "training rows 16 -> 15")):
        changed = [{**row, "chosen": row["chosen"] + "!"} for row in rows(count)]
        text = "".join(json.dumps(row) + "\n" for row in changed)
        (data / "train.jsonl").write_text(text)
        with pytest.raises(UserError, match=says):
            sft(
                "changed",
                data_path=[str(data)],
                data_output_path=None,
                resume_from_checkpoint="auto",
            )
    assert metrics(tmp_path / "changed") == shown
    assert (tmp_path / "run" / "config.yaml").read_text() == before
    # What only says where and how may change.
    result, _ = sft("run", resume_from_checkpoint="auto", print_loss=True, checkpoint_keep=2)
    assert result["eval_tokens"] > 0


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_loading_runs_no_code(sft: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        sft("run")
    folder = tmp_path / "run" / "resumable-3"
    seal = json.loads((folder / "complete.json").read_text())
    found = sorted(path for path in folder.rglob("*.pt"))
    assert len(found) == 2
    for path in found:
        whole = path.read_bytes()
        torch.save({"module": Attack(tmp_path / "ran")}, path)
        # Whoever can write the file can seal it.
        name = str(path.relative_to(folder))
        again = {**seal, "files": {**seal["files"], name: resumable._checksum(path)}}
        again["checksum"] = resumable._own_checksum(again)
        (folder / "complete.json").write_text(json.dumps(again))
        with pytest.raises(UserError, match="more than weights"):
            sft("run", resume_from_checkpoint=str(folder))
        assert not (tmp_path / "ran").exists()
        path.write_bytes(whole)


def test_a_comparison_that_was_cut_off_is_made_after_all(
    run: Any, tiny_reward_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dschat.supervised.reward_comparison import RewardComparison

    def cut(*arguments: Any) -> None:
        raise KeyboardInterrupt

    flags = {"rm_name": tiny_reward_dir, "max_new_tokens": 4, "resume_from_checkpoint": "auto"}
    with monkeypatch.context() as patch:
        patch.setattr(RewardComparison, "run", cut)
        with pytest.raises(KeyboardInterrupt):
            run("dpo", "run", **flags)
    shown, weights = metrics(tmp_path / "run"), sorted(models_in(tmp_path / "run"))
    written = [path.stat().st_mtime_ns for path in weights]
    run("dpo", "run", **flags)
    assert (tmp_path / "run" / "reward_comparison.json").is_file()
    run("dpo", "run", **flags)
    assert metrics(tmp_path / "run") == shown
    assert [path.stat().st_mtime_ns for path in weights] == written
