"""A resumed run of step 3 is the uninterrupted one, bit for bit."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from dschat.checkpoint import engine_checkpoint
from dschat.errors import UserError
from dschat.online.loop import OnlineTrainer
from dschat.online.run import build_trainer
from dschat.online.setup import start
from dschat.rewards import as_reward
from dschat.settings.online_scripts import PPO
from online_fixtures import command_line, make_trainer, online_settings
from safetensors.torch import load_file

GRPO = {"algorithm": "grpo", "num_generations": 4}


@pytest.fixture
def settings(tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path) -> Any:
    def make(name: str, **changes: Any) -> dict[str, Any]:
        output = {"output_dir": str(tmp_path / name)}
        return online_settings(tmp_path, tiny_model_dir, tiny_reward_dir, **output, **changes)

    return make


def run(trainer: OnlineTrainer) -> bool:
    with trainer.report.log:
        return trainer.train()


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines
    ]


def assert_same_run(one: Path, other: Path) -> None:
    """Equal metrics but for times, and equal weights in every final model."""
    assert rows(one) == rows(other)
    files = [p.relative_to(one) for p in sorted(one.glob("step-*/*/model.safetensors"))]
    assert files
    for file in files:
        a, b = load_file(one / file), load_file(other / file)
        assert a.keys() == b.keys()
        for name in a:
            assert torch.equal(a[name], b[name]), (file, name)


def stop_at(trainer: OnlineTrainer, method: str, call: int) -> None:
    """SIGTERM arrives during the given call of a part's method."""
    owners = {
        "score": trainer.scorer,
        "update": trainer.updater,
        "save_models": trainer.checkpointer,
    }
    owner = owners.get(method, trainer)
    plain, calls = getattr(owner, method), []

    def signalled(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments)

    setattr(owner, method, signalled)


@pytest.mark.parametrize(
    ("changes", "method"),
    [
        ({}, "sample"),
        ({"actor_dropout": 0.1, "critic_dropout": 0.1, "ppo_epochs": 2}, "score"),
        ({"enable_ema": True, "actor_zero_stage": 2, "critic_zero_stage": 2}, "update"),
        ({"enable_ema": True, "actor_zero_stage": 3, "critic_zero_stage": 3}, "score"),
        ({"actor_lora_dim": 4, "actor_lora_module_name": "layers.", **GRPO}, "update"),
        (
            {"dtype": "bf16", "offload": True, "actor_zero_stage": 2, "critic_zero_stage": 3},
            "update",
        ),
        ({"termination_condition": "randomized", "num_train_epochs": 2, "save_steps": 3}, "update"),
    ],
)
def test_sigterm_saves_and_the_resumed_run_is_the_uninterrupted_one(
    settings: Any, tmp_path: Path, changes: dict[str, Any], method: str, capsys: Any
) -> None:
    changes = {"warmup_ratio": 0.3, **changes}
    assert run(make_trainer(settings("whole", **changes)))
    trainer = make_trainer(settings("cut", **changes))
    stop_at(trainer, method, 3)
    assert not run(trainer)
    # What was sampled but not learnt from is sampled again; begun updates are finished.
    assert trainer.iteration == (3 if method == "update" else 2)
    assert "--resume_from_checkpoint auto" in capsys.readouterr().out
    again = make_trainer(settings("cut", resume_from_checkpoint="auto", **changes))
    assert again.iteration == trainer.iteration
    assert run(again)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_sigterm_at_the_end_is_no_reason_to_lose_the_model(settings: Any, tmp_path: Path) -> None:
    trainer = make_trainer(settings("a"))
    stop_at(trainer, "save_models", 1)
    assert run(trainer)
    assert (tmp_path / "a" / "step-8" / "actor" / "model.safetensors").is_file()


def test_sigterm_beside_a_periodic_checkpoint_saves_it_once(settings: Any, tmp_path: Path) -> None:
    trainer = make_trainer(settings("a", checkpoint_steps=1))
    stop_at(trainer, "update", 1)
    before = engine_checkpoint.torch.save
    calls: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            engine_checkpoint.torch, "save", lambda *a, **k: (calls.append(1), before(*a, **k))
        )
        assert not run(trainer)
    assert len(calls) == 3  # actor, critic, this rank's own state


def test_a_finished_run_is_left_alone(settings: Any, tmp_path: Path, capsys: Any) -> None:
    from dschat.online.run import train_online
    from dschat.settings.online import online_config

    def train(resume: str | None = "auto", **changes: Any) -> None:
        config = online_config(**settings("a", resume_from_checkpoint=resume, **changes))
        config.validate()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dschat.runtime.distributed.shut_down", lambda: None)
            train_online(config)

    short = {"enable_test_mode": True, "test_stop_step": 2}
    train(**short)
    file = tmp_path / "a" / "step-2" / "actor" / "model.safetensors"
    before = (file.stat().st_mtime_ns, rows(tmp_path / "a"))
    with pytest.raises(UserError, match="already holds step-2 of another run"):
        train(resume=None, **short)  # which leaves the run finished
    train(**short)
    assert (file.stat().st_mtime_ns, rows(tmp_path / "a")) == before
    assert "is finished; its model is" in capsys.readouterr().out
    with pytest.raises(UserError, match="--test_stop_step 2 -> 3"):
        train(enable_test_mode=True, test_stop_step=3)


def test_bad_steps_are_counted_across_an_interruption(settings: Any, tmp_path: Path) -> None:
    trainer = make_trainer(settings("a"))
    trainer.reward = as_reward(lambda prompts, *_: [float("nan")] * len(prompts))
    stop_at(trainer, "sample", 2)
    assert not run(trainer)
    again = make_trainer(settings("a", resume_from_checkpoint="auto"))
    assert (again.bad_steps.total, again.bad_steps.in_a_row) == (1, 1)


def test_checkpoints_are_saved_kept_and_gone_back_to(settings: Any, tmp_path: Path) -> None:
    assert run(make_trainer(settings("a", checkpoint_steps=2, checkpoint_keep=2)))
    # Eight iterations: none is needed at the end.
    assert sorted(p.name for p in (tmp_path / "a").glob("resumable-*")) == [
        "resumable-4",
        "resumable-6",
    ]
    older = tmp_path / "a" / "resumable-4"
    trainer = make_trainer(settings("b", resume_from_checkpoint=str(older)))
    assert trainer.iteration == 4
    assert run(trainer)
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_a_damaged_checkpoint_is_skipped(settings: Any, tmp_path: Path, capsys: Any) -> None:
    assert run(make_trainer(settings("a", checkpoint_steps=2, checkpoint_keep=3)))
    newest = tmp_path / "a" / "resumable-6"
    (state,) = newest.glob("critic/state/mp_rank_00_model_states.pt")
    state.write_bytes(state.read_bytes()[:-100])
    trainer = make_trainer(settings("a", resume_from_checkpoint="auto"))
    assert trainer.iteration == 4
    assert "skipped" in capsys.readouterr().out
    with pytest.raises(UserError, match="damaged"):
        make_trainer(settings("a", resume_from_checkpoint=str(newest)))


def test_nothing_to_resume_starts_a_run(settings: Any, tmp_path: Path, capsys: Any) -> None:
    changes = {"enable_test_mode": True, "test_stop_step": 1}
    assert run(make_trainer(settings("a", resume_from_checkpoint="auto", **changes)))
    assert "starting a new run" in capsys.readouterr().out
    assert [row["iteration"] for row in rows(tmp_path / "a")] == [1]


def test_another_run_is_not_resumed(settings: Any, tmp_path: Path) -> None:
    def made(**changes: Any) -> Any:
        config = PPO.parse(command_line(**settings("a", **changes)))
        return build_trainer(config, *start(config))

    trainer = made()
    stop_at(trainer, "update", 1)
    assert not run(trainer)
    with pytest.raises(UserError, match="resumable-1 of another run"):
        made()
    for changes, message in (
        ({"kl_ctl": 0.2}, r"--kl_ctl 0.05 -> 0.2"),
        ({"seed": 8}, r"--seed 7 -> 8"),
        ({"max_prompt_seq_len": 24}, r"--max_prompt_seq_len 64 -> 24"),
        ({"num_train_epochs": 2}, r"--num_train_epochs 1 -> 2"),
    ):
        with pytest.raises(UserError, match=message):
            made(resume_from_checkpoint="auto", **changes)
    # What changes no result may change.
    own = str(tmp_path / "a" / "config.yaml")
    config = PPO.parse([own, "--resume_from_checkpoint", "auto"])
    assert build_trainer(config, *start(config)).iteration == 1
    harmless = {"save_steps": 1, "offload_reference_model": True, "checkpoint_steps": 1}
    assert made(resume_from_checkpoint="auto", **harmless).iteration == 1


def test_changed_data_are_noticed(settings: Any, tmp_path: Path) -> None:
    trainer = make_trainer(settings("a"))
    stop_at(trainer, "update", 1)
    assert not run(trainer)
    again = settings("a", resume_from_checkpoint="auto")
    train = Path(again["data_path"][0]) / "train.jsonl"
    train.write_text(train.read_text().replace("kettle", "teapot"))
    again["data_output_path"] = str(tmp_path / "another_cache")
    with pytest.raises(UserError, match="checksum of the prompts"):
        make_trainer(again)


def test_a_disk_that_is_full_leaves_the_older_checkpoint(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    trainer = make_trainer(settings("a", checkpoint_steps=1))
    save, calls = torch.save, []

    def full(*arguments: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) > 5:  # three files a checkpoint
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*arguments, **options)

    monkeypatch.setattr(engine_checkpoint.torch, "save", full)
    with pytest.raises(UserError, match="disk is full"):
        run(trainer)
    assert [p.name for p in (tmp_path / "a").glob("*resumable-*")] == ["resumable-1"]
    monkeypatch.setattr(engine_checkpoint.torch, "save", save)
    assert run(make_trainer(settings("a", resume_from_checkpoint="auto")))
    assert run(make_trainer(settings("whole")))
    assert_same_run(tmp_path / "whole", tmp_path / "a")


def test_a_checkpoint_runs_no_code(settings: Any, tmp_path: Path) -> None:
    """Files whose checksums agree but which would run something when unpickled are refused."""

    class Runs:
        def __reduce__(self) -> Any:
            return (os.system, (f"touch {tmp_path}/ran",))

    from dschat.checkpoint.resumable import seal

    trainer = make_trainer(settings("a"))
    stop_at(trainer, "update", 1)
    assert not run(trainer)
    folder, run_of = tmp_path / "a" / "resumable-1", trainer.checkpointer.run
    for file in ("actor/state/mp_rank_00_model_states.pt", "rank-0.pt"):
        before = (folder / file).read_bytes()
        torch.save({"module": Runs()}, folder / file)
        seal(folder, 1, run_of.settings, **run_of.facts)
        with pytest.raises(UserError, match="weights only"):
            make_trainer(settings("a", resume_from_checkpoint="auto"))
        assert not (tmp_path / "ran").exists()
        (folder / file).write_bytes(before)
