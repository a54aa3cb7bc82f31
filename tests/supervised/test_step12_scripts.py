"""Steps 1 and 2 as users start them: the scripts, on one rank and under the launcher on two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dpo_fixtures import command_line
from launch import ROOT, STEP1, STEP2, run_script

pytestmark = pytest.mark.slow
Settings = Callable[..., dict[str, Any]]
Metrics = Callable[[str | Path], list[dict[str, Any]]]
HH_RLHF = ROOT.parent / "shared" / "data" / "hh_rlhf"


def test_a_failed_save_ends_both_ranks_with_one_message(
    tiny_model_dir: Path, settings: Settings, tmp_path: Path
) -> None:
    flags = settings(model_name_or_path=str(tiny_model_dir), data_split="1,0,0", zero_stage=3)
    # The model's config.json cannot take the place of a folder that is not empty.
    (Path(flags["output_dir"]) / "config.json" / "in_the_way").mkdir(parents=True)
    done = run_script(STEP1, command_line(flags), ranks=2)
    assert done.returncode == 1
    assert "could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (Path(flags["output_dir"]) / "model.safetensors").exists()


@pytest.mark.skipif(not HH_RLHF.is_dir(), reason="the real preference data is not there")
def test_the_published_flags_on_real_dialogues(
    tiny_model_dir: Path, read_metrics: Metrics, tmp_path: Path
) -> None:
    common = (
        f"--data_path {HH_RLHF} --data_output_path {tmp_path}/data --data_split 2,4,4 "
        "--per_device_train_batch_size 8 --per_device_eval_batch_size 8 --max_seq_len 256 "
        "--lr_scheduler_type cosine --warmup_ratio 0.1 --seed 1234 --gradient_checkpointing "
        "--zero_stage 2 --deepspeed --num_train_epochs 1"
    ).split()
    sft, reward = tmp_path / "sft", tmp_path / "reward"
    step1 = ["--model_name_or_path", tiny_model_dir, "--learning_rate", "5e-3"]
    step1 += ["--weight_decay", "0.01", "--output_dir", sft]
    done = run_script(STEP1, [*common, *step1])
    assert done.returncode == 0, done.stderr
    start, *_, last = read_metrics(sft)
    assert last["eval_perplexity"] < 0.7 * start["eval_perplexity"]
    step2 = ["--model_name_or_path", sft, "--learning_rate", "1e-3", "--weight_decay", "0.1"]
    step2 += ["--num_padding_at_beginning", "0", "--output_dir", reward]
    done = run_script(STEP2, [*common, *step2])
    assert done.returncode == 0, done.stderr
    last = read_metrics(reward)[-1]
    assert (reward / f"step_{last['micro_step']}" / "model.safetensors").is_file()
    assert 0.0 <= last["eval_accuracy"] <= 1.0
