"""Step 3's scripts as users start them: one rank and two, ZeRO 2 and 3, the same results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from documented import unexplained
from dschat.settings.online_scripts import WPR
from launch import TRAINING, run_script
from online_fixtures import online_settings
from safetensors.torch import load_file

STEP3 = TRAINING / "step3_rlhf_finetuning"
FLAGS = {"cost_dim": 20, "top_k": 8, "epsilon": 0.1, "termination_condition": "fixed", "ngram": 1}


def flags(settings: dict[str, Any]) -> list[str]:
    arguments = ["--deepspeed"]
    for name, value in settings.items():
        values = value if isinstance(value, list) else [value]
        arguments += [f"--{name}", *([] if value is True else map(str, values))]
    return arguments


def launch(script: str, settings: dict[str, Any], ranks: int = 1) -> tuple[list[Any], Path]:
    """Run a script; its metrics without times, and the folder of its only checkpoint."""
    result = run_script(STEP3 / script, flags(settings), ranks)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    output = Path(settings["output_dir"])
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert not unexplained(rows)
    (checkpoint,) = output.glob("step-*")
    kept = [{k: v for k, v in r.items() if not k.startswith("time/")} for r in rows]
    return kept, checkpoint


@pytest.fixture
def settings(tmp_path: Path, tiny_model_dir: Path, tiny_reward_dir: Path) -> Any:
    def make(**changes: Any) -> dict[str, Any]:
        changes = {"enable_test_mode": True, "test_stop_step": 2, **changes}
        return online_settings(tmp_path, tiny_model_dir, tiny_reward_dir, **changes)

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "changes"),
    [
        ("main_wpr.py", {**FLAGS, "actor_zero_stage": 2, "critic_zero_stage": 3, "offload": True}),
        (
            "main.py",
            {
                "actor_zero_stage": 3,
                "critic_zero_stage": 2,
                "enable_zero3_generation_gather": True,
                "actor_gradient_checkpointing": True,
                "critic_gradient_checkpointing": True,
                "f_div": "js",
                "f_div_form": "gradient",
            },
        ),
        (
            "main.py",
            {"actor_zero_stage": 3, "critic_zero_stage": 3, "offload_reference_model": True},
        ),
        (  # Micro-batches by length, and in the second pass other ones in a step.
            "main.py",
            {
                "per_device_generation_batch_size": 16,
                "ppo_epochs": 2,
                "max_answer_seq_len": 24,
                "actor_zero_stage": 2,
                "critic_zero_stage": 2,
            },
        ),
    ],
)
def test_two_ranks_do_what_one_does(settings: Any, tmp_path: Path, script: str, changes: Any):
    given = settings(output_dir=str(tmp_path / "one"), **changes)
    one, alone = launch(script, given)
    sizes = ("per_device_generation_batch_size", "per_device_training_batch_size")
    halves = {name: given[name] // 2 for name in sizes}
    given |= {"output_dir": str(tmp_path / "two"), **halves}
    two, together = launch(script, given, ranks=2)
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert a["policy_loss"] != 0
        for name, value in a.items():
            if name == "padding_share":  # of smaller micro-batches
                continue
            assert b[name] == pytest.approx(value, abs=2e-4, rel=2e-3), name
    for model in ("actor", "critic"):
        weights, others = (
            load_file(folder / model / "model.safetensors") for folder in (alone, together)
        )
        assert weights.keys() == others.keys()
        for name, tensor in weights.items():
            # Adam turns tiny gradients into steps of the learning rate (1e-3) times a sign.
            difference = (tensor - others[name]).abs()
            assert difference.mean() < 2e-5, name
            assert difference.max() < 2.1e-3, name


@pytest.mark.slow
def test_what_a_run_writes(settings: Any, tmp_path: Path) -> None:
    import yaml

    output = tmp_path / "out"
    config = tmp_path / "run.yaml"
    config.write_text(
        yaml.safe_dump(settings(save_steps=1, enable_tensorboard=True, **FLAGS)), encoding="utf-8"
    )
    result = run_script(STEP3 / "main_wpr.py", [config, "--seed", "11"])
    assert result.returncode == 0, result.stderr[-3000:]
    for step in ("step-1", "step-2"):
        for model in ("actor", "critic"):
            assert (output / step / model / "model.safetensors").is_file()
            assert (output / step / model / "tokenizer.json").is_file()
    written = yaml.safe_load((output / "config.yaml").read_text())
    assert written["seed"] == 11
    assert written["kl_ctl"] == 0.05
    settled = ("fp32", 10, 1e-6, 1024, "<eos>", "<pad>")
    names = ("dtype", "max_iter", "tol", "block_size", "end_of_conversation_token", "pad_token")
    assert tuple(written[name] for name in names) == settled
    assert written["tensorboard_path"] == str(output / "tensorboard")
    WPR.parse([str(output / "config.yaml")])  # it can be given back
    assert written["run"]["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert list((output / "tensorboard").iterdir())
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert not unexplained(rows)
    assert [r["step"] for r in rows] == [1, 2]
    for name in ("reward", "divergence", "response_length", "time/tokens_per_s"):
        assert all(name in r for r in rows)
    for name in ("nearest_cost_over_epsilon", "kernel_share_above_1e-16", "marginal_error"):
        assert all(f"penalty/{name}" in r for r in rows)
    for shown in ("reward", "divergence", "length", "tokens/s"):
        assert shown in result.stderr


@pytest.mark.slow
def test_the_published_setting_is_warned_about_in_plain_words(settings: Any, tiny_model_dir: Path):
    # The tiny model's nearest tokens are 0.1 apart: 1000 times this epsilon.
    changes = {**FLAGS, "epsilon": 1e-4, "test_stop_step": 1}
    result = run_script(STEP3 / "main_wpr.py", flags(settings(**changes)))
    assert result.returncode == 0
    assert "WARNING" in result.stdout
    assert "--epsilon" in result.stdout
