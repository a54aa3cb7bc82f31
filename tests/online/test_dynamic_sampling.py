"""--dynamic_sampling: groups of equal rewards are left out, on any number of ranks, resumable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from documented import unexplained
from launch import TRAINING, run_script
from online_fixtures import command_line, make_trainer, online_settings
from safetensors.torch import load_file

SCRIPT = TRAINING / "step3_rlhf_finetuning" / "main.py"
REWARD = '''
def even(prompts, responses, examples):
    """Differs within some groups only: by the response where the prompt ends with ?."""
    pairs = zip(prompts, examples)
    return [float(e["response_ids"][0] % 2) if "?" in p else 1.0 for p, e in pairs]
'''


@pytest.fixture
def flags(tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path) -> dict[str, Any]:
    (tmp_path / "even.py").write_text(REWARD)
    found = online_settings(
        tmp_path,
        tiny_model_dir,
        tiny_reward_dir,
        critic_model_name_or_path=...,
        algorithm="grpo",
        num_generations=2,
        dynamic_sampling=True,
        dynamic_sampling_tries=4,
        enable_test_mode=True,
        test_stop_step=3,
    )
    return {**found, "reward": [f"{tmp_path / 'even.py'}:even"]}


def rows(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert not unexplained(found)
    return [{k: v for k, v in r.items() if not k.startswith("time/")} for r in found]


def test_an_iteration_holds_groups_that_differ(flags: dict[str, Any]) -> None:
    trainer = make_trainer(flags)
    with trainer.report.log:
        trainer.train()
    found = rows(Path(flags["output_dir"]))
    assert sum(r["dynamic_sampling/batches"] for r in found) == trainer.batches > 3
    for r in found:
        assert 0 < r["dynamic_sampling/kept"] < 1
        enough = r["dynamic_sampling/kept"] * r["dynamic_sampling/batches"] >= 1
        assert (r["equal_groups"] == 0) == enough
        assert r["reward"] <= r["dynamic_sampling/reward"]
    assert any(r["equal_groups"] == 0 for r in found)


@pytest.mark.slow
def test_two_ranks_do_what_one_does(flags: dict[str, Any], tmp_path: Path) -> None:
    halves = {"per_device_generation_batch_size": 4, "per_device_training_batch_size": 2}
    flags = {k: None if v is True else v for k, v in flags.items()}
    for ranks, more in ((1, {}), (2, halves)):
        arguments = command_line(**{**flags, **more, "output_dir": str(tmp_path / f"{ranks}")})
        done = run_script(SCRIPT, arguments, ranks)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    one, two = rows(tmp_path / "1"), rows(tmp_path / "2")
    for a, b in zip(one, two, strict=True):
        for name, value in a.items():
            if name != "padding_share":
                assert b[name] == pytest.approx(value, abs=2e-4, rel=2e-3), name
    a, b = (load_file(tmp_path / n / "step-3/actor/model.safetensors") for n in ("1", "2"))
    assert all(float((a[name] - b[name]).abs().mean()) < 2e-5 for name in a)
    assert all(torch.isfinite(x).all() for x in a.values())


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(flags: dict[str, Any], tmp_path: Path) -> None:
    flags = {k: None if v is True else v for k, v in flags.items()}
    more = {"checkpoint_steps": 1, "checkpoint_keep": 9}
    for name, source in (("whole", None), ("resumed", tmp_path / "whole/resumable-1")):
        if source is not None:
            more |= {"resume_from_checkpoint": str(source)}
        output = {"output_dir": str(tmp_path / name)}
        done = run_script(SCRIPT, command_line(**{**flags, **more, **output}))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert rows(whole) == rows(resumed)
    # More than one batch was drawn before the checkpoint: its place in the data is kept.
    assert rows(whole)[0]["dynamic_sampling/batches"] > 1
    a, b = (load_file(x / "step-3/actor/model.safetensors") for x in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)
