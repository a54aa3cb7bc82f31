"""The flags of steps 1 and 2."""

from __future__ import annotations

import shlex

import pytest
from dschat.errors import UserError
from dschat.settings.command_line import CommandLine
from dschat.settings.supervised import RewardModelingConfig, SupervisedConfig

# The published commands of the method's authors (arXiv 2602.01685), as users type them.
STEP1 = """--data_path openai/summarize_from_feedback --data_split 2,4,4
 --model_name_or_path google/gemma-2b --per_device_train_batch_size 8
 --per_device_eval_batch_size 8 --max_seq_len 1024 --learning_rate 5e-5 --weight_decay 0.01
 --num_train_epochs 3 --gradient_accumulation_steps 8 --lr_scheduler_type cosine
 --warmup_ratio 0.1 --seed 1234 --gradient_checkpointing --zero_stage 2 --deepspeed
 --output_dir ../../models/summarize/sft"""
STEP2 = """--local_rank=1 --data_path openai/summarize_from_feedback --data_split 2,4,4
 --model_name_or_path ../../models/summarize/sft --per_device_train_batch_size 8
 --per_device_eval_batch_size 8 --max_seq_len 1024 --learning_rate 1e-5 --weight_decay 0.1
 --num_padding_at_beginning 0 --num_train_epochs 1 --gradient_accumulation_steps 1
 --lr_scheduler_type cosine --warmup_ratio 0.1 --seed 1234 --gradient_checkpointing
 --zero_stage 2 --deepspeed --output_dir ../../models/summarize/reward_model"""
BASE = ["--model_name_or_path", "m", "--output_dir", "o"]


def test_the_published_commands_parse() -> None:
    step1 = CommandLine(SupervisedConfig).parse(shlex.split(STEP1))
    assert (step1.learning_rate, step1.zero_stage, step1.warmup_ratio) == (5e-5, 2, 0.1)
    assert step1.gradient_checkpointing
    assert step1.data_path == ["openai/summarize_from_feedback"]
    step2 = CommandLine(RewardModelingConfig).parse(shlex.split(STEP2))
    assert (step2.weight_decay, step2.local_rank, step2.num_padding_at_beginning) == (0.1, 1, 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--output_dir", "o"], "--model_name_or_path"),
        (["--model_name_or_path", "m"], "--output_dir"),
        ([*BASE, "--num_warmup_steps", "3", "--warmup_ratio", "0.1"], "one of them"),
        ([*BASE, "--warmup_ratio", "10"], "share"),
        ([*BASE, "--lr_scheduler_type", "constant", "--warmup_ratio", "0.1"], "no warm-up"),
        ([*BASE, "--only_optimize_lora"], "--lora_dim"),
        ([*BASE, "--lora_learning_rate", "1e-4"], "--lora_dim"),
        ([*BASE, "--tensorboard_path", "t"], "--enable_tensorboard"),
        ([*BASE, "--add_eot_token"], "--end_of_conversation_token"),
        ([*BASE, "--per_device_train_batch_size", "0"], "1 or more"),
        ([*BASE, "--zero_stage", "4"], "0, 1, 2 or 3"),
        ([*BASE, "--enable_hybrid_engine"], "hybrid engine"),
    ],
)
def test_invalid_values_are_refused(arguments: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        CommandLine(SupervisedConfig).parse(arguments)


def test_lora_takes_deepspeed_chats_learning_rate() -> None:
    config = CommandLine(RewardModelingConfig).parse([*BASE, "--lora_dim", "8"])
    assert config.lora_learning_rate == 5e-4
