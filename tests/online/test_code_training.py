"""main_apps.py and main_wpr_apps.py: policies that learn from programs being run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dschat.errors import UserError
from dschat.online.run import build_trainer
from dschat.online.setup import start
from dschat.runtime.files import read_jsonl
from dschat.settings.online_scripts import PPO_APPS, WPR_APPS
from launch import TRAINING, run_script
from program_fixtures import make_programs
from transformers import AutoTokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_programs(tmp_path_factory.mktemp("programs"))


def settings(folder: Path, output: Path, **changes: Any) -> list[str]:
    flags = {
        "data_path": folder / "data",
        "data_split": "0,0,1",
        "actor_model_name_or_path": folder / "sft",
        "output_dir": output,
        "max_prompt_seq_len": 96,
        "max_answer_seq_len": 64,
        "per_device_generation_batch_size": 64,
        "per_device_training_batch_size": 32,
        "gradient_accumulation_steps": 2,
        "num_generations": 8,
        "num_train_epochs": 12,
        "actor_learning_rate": 2e-4,
        "warmup_ratio": 0.0,
        "temperature": 1.0,
        "sandbox": "limits",
        "reward_workers": 2,
        "save_steps": 0,
        **changes,
    }
    return [str(word) for name, value in flags.items() for word in (f"--{name}", value)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "changes"),
    [
        (PPO_APPS, {"critic_learning_rate": 3e-3}),
        (
            WPR_APPS,
            {"transport": "sinkhorn_divergence", "top_k": 32, "algorithm": "grpo"},
        ),
    ],
)
def test_the_reward_rises(
    folder: Path, tmp_path: Path, line: Any, changes: dict[str, Any], read_metrics: Any
) -> None:
    config = line.parse(settings(folder, tmp_path / "out", **changes))
    trainer = build_trainer(config, *start(config))
    with trainer.report.log:
        trainer.train()
    rows = read_metrics(tmp_path / "out")
    first, last = (sum(r["reward"] for r in part) / 3 for part in (rows[:3], rows[-3:]))
    assert last > first + 0.15, (first, last)
    assert rows[-1]["reward/solved"] > rows[0]["reward/solved"]
    assert 0 <= rows[-1]["reward/tests_passed"] <= 1


@pytest.mark.slow
def test_the_script_on_two_ranks(folder: Path, tmp_path: Path, read_metrics: Any) -> None:
    script = TRAINING / "step3_rlhf_finetuning" / "main_wpr_apps.py"
    changes = {"num_train_epochs": 1, "cost_dim": 16, "top_k": 16, "epsilon": 1.0}
    size = {"per_device_generation_batch_size": 32, "per_device_training_batch_size": 16}
    run = run_script(script, settings(folder, tmp_path / "out", **changes, **size), ranks=2)
    assert run.returncode == 0, run.stderr[-3000:]
    (row,) = read_metrics(tmp_path / "out")
    assert row["responses"] == 64
    assert -1 <= row["reward"] <= 1


def test_each_response_meets_the_tests_of_its_own_prompt(folder: Path, tmp_path: Path) -> None:
    """Also where other prompts were too long, and left out."""
    rows = read_jsonl(folder / "data" / "train.jsonl")
    tests = {f"### Problem:\n{r['question']}\n\n### Response:\n": r["input_output"] for r in rows}
    tokenizer = AutoTokenizer.from_pretrained(folder / "sft")
    limit = sorted(len(tokenizer(text)["input_ids"]) for text in tests)[len(tests) // 2]
    size = {"per_device_generation_batch_size": 32, "gradient_accumulation_steps": 1}
    flags = settings(folder, tmp_path / "out", max_prompt_seq_len=limit, **size)
    config = PPO_APPS.parse(flags)
    trainer = build_trainer(config, *start(config))
    assert float(trainer.critic.module.model.score.weight.abs().sum()) == 0
    assert 3 < len(trainer.prompts) < len(tests)
    whole = config.per_device_training_batch_size  # as many of each prompt as a micro-batch has
    for rollout in trainer.sample([p for p in trainer.prompts for _ in range(whole)]):
        for text, example in zip(rollout.prompts, rollout.examples, strict=True):
            assert example["input_output"] == tests[text]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward_workers": 0}, "--reward_workers 0"),
        ({"test_seconds": 0}, "--test_seconds 0"),
        ({"memory_mb": -1}, "--memory_mb -1"),
    ],
)
def test_settings_that_cannot_be_meant(
    folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        PPO_APPS.parse(settings(folder, tmp_path, **changes))
