"""Steps 1 and 2 as users start them: the scripts, on one rank and under the launcher on two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dschat.settings.supervised import RewardModelingConfig, SupervisedConfig
from dschat.supervised.reward_modeling import train_reward_model
from dschat.supervised.sft import train_sft
from launch import ROOT, STEP1, STEP2, run_script

pytestmark = pytest.mark.slow
Settings = Callable[..., dict[str, Any]]
Metrics = Callable[[str | Path], list[dict[str, Any]]]
HH_RLHF = ROOT.parent / "shared" / "data" / "hh_rlhf"
# Norms of gradients are summed in another order; the other rows are means over the same tokens.
COMPARED = ("loss", "learning_rate", "grad_norm", "eval_loss", "eval_accuracy", "eval_chosen_score")


def command_line(flags: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in flags.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}"] + ([] if value is True else [str(v) for v in values])
    return words


def assert_same_course(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    assert [row["step"] for row in one] == [row["step"] for row in other]
    for row, expected in zip(one, other, strict=True):
        for name in COMPARED:
            if name in expected:
                assert row[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-5), name


def test_step1_zero3_on_two_ranks_is_one_rank(
    tiny_model_dir: Path, settings: Settings, read_metrics: Metrics, tmp_path: Path
) -> None:
    # 6 rows a rank and micro-step: the last micro-step of the epoch is not full.
    common = settings(
        model_name_or_path=str(tiny_model_dir),
        gradient_accumulation_steps=2,
        gradient_checkpointing=True,
        warmup_ratio=0.25,
        num_train_epochs=2,
        data_split="1,0,0",
        deepspeed=True,
    )
    alone = {**common, "output_dir": str(tmp_path / "one"), "per_device_train_batch_size": 4}
    train_sft(SupervisedConfig(**alone))
    ranks = {**common, "per_device_train_batch_size": 2, "zero_stage": 3}
    done = run_script(STEP1, command_line(ranks), ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_course(read_metrics(ranks["output_dir"]), read_metrics(alone["output_dir"]))

    from transformers import AutoModelForCausalLM

    saved = AutoModelForCausalLM.from_pretrained(ranks["output_dir"]).state_dict()
    for name, tensor in AutoModelForCausalLM.from_pretrained(tmp_path / "one").named_parameters():
        assert (saved[name] - tensor).abs().max() < 1e-3, name


def test_step2_zero2_on_two_ranks_is_one_rank(
    tiny_reward_dir: Path, settings: Settings, read_metrics: Metrics, tmp_path: Path
) -> None:
    common = settings(
        model_name_or_path=str(tiny_reward_dir),
        gradient_accumulation_steps=2,
        gradient_checkpointing=True,
        data_split="0,1,0",
        eval_interval=2,
        deepspeed=True,
    )
    alone = {**common, "output_dir": str(tmp_path / "one"), "per_device_train_batch_size": 4}
    train_reward_model(RewardModelingConfig(**alone))
    ranks = {**common, "per_device_train_batch_size": 2, "zero_stage": 2}
    done = run_script(STEP2, command_line(ranks), ranks=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_course(read_metrics(ranks["output_dir"]), read_metrics(alone["output_dir"]))

    from transformers import AutoModelForSequenceClassification

    for step in ("step_2", "step_4"):
        folder = Path(ranks["output_dir"]) / step
        assert AutoModelForSequenceClassification.from_pretrained(folder).config.num_labels == 1


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


def test_a_wrong_model_path_is_one_message_and_exit_code_1(tmp_path: Path) -> None:
    flags = {"model_name_or_path": "./nowhere/at/all", "output_dir": tmp_path / "out"}
    done = run_script(STEP1, command_line(flags))
    assert done.returncode == 1
    assert done.stderr.strip().startswith("error: --model_name_or_path ./nowhere/at/all")
    assert "Traceback" not in done.stderr
