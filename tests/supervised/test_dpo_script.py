"""The DPO script as users start it: on one rank, and under the launcher on two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dpo_fixtures import command_line, configured, save_model
from dschat.supervised.dpo import train_dpo
from launch import DPO, environment, run_script
from preferences import rows
from transformers import AutoModelForCausalLM

Metrics = Callable[[str | Path], list[dict[str, Any]]]
COMPARED = ("loss", "eval_loss", "rewards/margins", "eval_rewards/margins", "log_ratio/ref_1")


@pytest.fixture(scope="module")
def folder(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two references, the second with padding in its output layer, and data with 6 test rows."""
    root = tmp_path_factory.mktemp("dpo")
    padded = len(tiny_tokenizer) + 16
    save_model(root / "a", tiny_tokenizer, seed=0)
    save_model(root / "b", tiny_tokenizer, seed=1, vocab_size=padded)
    (root / "data").mkdir()
    for name, part in (("train", rows(16)), ("test", rows(6, first=100))):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (root / "data" / f"{name}.jsonl").write_text(text)
    return root


@pytest.mark.slow
def test_two_ranks_are_one_rank(
    folder: Path,
    tiny_reward_dir: Path,
    read_metrics: Metrics,
    tmp_path: Path,
) -> None:
    common = {
        "dataset": folder / "data",
        "ref_a": folder / "b",
        "ref_b": folder / "a",
        "alpha": 0.3,
        "beta": 0.3,
        "kl_type": "fkl",
        "gamma": 0.5,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "max_length": 64,
        "rm_name": tiny_reward_dir,
        "max_new_tokens": 8,
        "deepspeed": True,
    }
    outputs = []
    for ranks, size, zero in ((1, 4, 0), (2, 2, 3)):
        outputs.append(tmp_path / f"ranks{ranks}")
        further = {"per_device_train_batch_size": size, "zero_stage": zero}
        flags = {**common, **further, "output_dir": outputs[-1]}
        if ranks == 1:
            train_dpo(configured(flags))
            continue
        done = run_script(DPO, command_line(flags), ranks=ranks)
        assert done.returncode == 0, done.stdout + done.stderr
    one, two = (read_metrics(path) for path in outputs)
    assert [row["step"] for row in one] == [row["step"] for row in two] == [0, 1, 2, 3, 4]
    for row, expected in zip(two, one, strict=True):
        for name in COMPARED:
            if name in expected:
                assert row[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-5), name
    assert one[-1]["eval_loss"] < one[0]["eval_loss"]

    first, second = (json.loads((p / "reward_comparison.json").read_text()) for p in outputs)
    assert first["prompts"] == 6
    assert first["samples"] == second["samples"]
    assert first["win_rates"] == second["win_rates"]
    saved = AutoModelForCausalLM.from_pretrained(outputs[1]).state_dict()
    for name, tensor in AutoModelForCausalLM.from_pretrained(outputs[0]).named_parameters():
        assert (saved[name] - tensor).abs().max() < 1e-3, name


@pytest.mark.slow
def test_the_published_command_runs_from_its_own_folder(
    folder: Path, tiny_reward_dir: Path, tmp_path: Path
) -> None:
    """As its authors write it (arXiv 2502.01203), with local folders for names."""
    command = [sys.executable, DPO.name, "--dataset", str(folder / "data")]
    command += ["--ref_a", str(folder / "a"), "--ref_b", str(folder / "b")]
    command += ["--kl_type", "rkl", "--alpha", "0.5", "--beta", "0.5", "--gamma", "1.0"]
    command += ["--rm_name", str(tiny_reward_dir), "--output_dir", str(tmp_path / "run")]
    command += ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "16"]
    command += ["--num_train_epochs", "1", "--bf16"]
    # Their models read 32,768 tokens; the tiny ones 512.
    command += ["--max_length", "256", "--max_new_tokens", "8"]
    done = subprocess.run(
        command, cwd=DPO.parent, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "policy wins" in done.stdout
    assert (tmp_path / "run" / "reward_comparison.json").is_file()


def test_help_and_errors_need_no_torch(tmp_path: Path) -> None:
    """--help answers, and flags are checked, where torch cannot even be imported."""
    (tmp_path / "torch.py").write_text("raise ImportError('torch is not needed for this')")
    env = environment(PYTHONPATH=str(tmp_path))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(DPO), *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)

    shown = run("--help")
    assert shown.returncode == 0, shown.stderr
    assert "--ref_weights" in shown.stdout
    missing = run("--ref_a", "x", "--output_dir", os.fspath(tmp_path))
    assert missing.returncode == 1
    assert "error: --ref_a is given without --ref_b" in missing.stderr
