"""Run a script on bad input, in this process, as `python script.py ...` would."""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from unittest import mock

from launch import DPO, MULTI_REFERENCE, ROOT, STEP1, STEP2, TRAINING

STEP3 = TRAINING / "step3_rlhf_finetuning"
TUNE = "--data_path pairs --model_name_or_path model --max_seq_len 64 --output_dir {out}"
ONLINE = (
    "--actor_model_name_or_path model --output_dir {out} --data_split 0,0,1 "
    "--max_prompt_seq_len 40 --max_answer_seq_len 8 "
    "--per_device_generation_batch_size 4 --per_device_training_batch_size 4"
)
PPO = f"{ONLINE} --data_path pairs --critic_model_name_or_path reward"
PROGRAMS = f"{ONLINE} --data_path problems --sandbox limits --reward_workers 1"
NEAR_TWO = "--ref_a model --ref_b model_b"
ANSWERS = "--proj-path {out} --batch-size 4 --max-new-tokens 4 --num-samples 4"
# A right command line of each script: a case adds what is wrong, and the last flag counts.
SCRIPTS: dict[str, tuple[Path, str]] = {
    "sft": (STEP1, TUNE),
    "reward": (STEP2, TUNE),
    "ppo": (STEP3 / "main.py", PPO),
    "wpr": (STEP3 / "main_wpr.py", PPO),
    "apps": (STEP3 / "main_apps.py", PROGRAMS),
    "wpr_apps": (STEP3 / "main_wpr_apps.py", PROGRAMS),
    "grpo": (
        MULTI_REFERENCE / "gsm8k_grpo.py",
        f"{NEAR_TWO} --dataset sums --model_out {{out}} --max_completion_length 8 "
        "--per_device_train_batch_size 4 --num_generations 4 --gradient_accumulation_steps 1",
    ),
    "dpo": (DPO, f"{NEAR_TWO} --dataset pairs --output_dir {{out}} --max_length 64"),
    "inference": (
        ROOT / "inference" / "inference_with_rewards.py",
        f"{ANSWERS} --model trained/step-5 --reward-model reward --dataset pairs",
    ),
    "code": (
        ROOT / "inference" / "inference_apps.py",
        f"{ANSWERS} --model trained/step-5 --dataset problems --sandbox limits",
    ),
    "judge": (
        ROOT / "evaluation" / "gpt4-eval.py",
        "--model_name_a a.jsonl --model_name_b b.jsonl --dataset summarize --yes "
        "--output {out}/judged.jsonl",
    ),
    "human": (
        ROOT / "evaluation" / "human-eval.py",
        "--model_a a.jsonl --model_b b.jsonl --dataset summarize --output {out}/human.jsonl",
    ),
    "sample": (
        ROOT / "evaluation" / "tools" / "sample_from_dataset.py",
        "--filepath a.jsonl --savepath {out}/sampled.jsonl --dataset summarize",
    ),
    "plot": (ROOT / "evaluation" / "plot_runs.py", "--output {out}"),
    "compare": (ROOT / "evaluation" / "compare.py", "--output {out}"),
}


@dataclass(frozen=True)
class Command:
    """A script with its arguments, and the environment variables set for it."""

    script: Path
    arguments: list[str]
    variables: dict[str, str]


BAR = re.compile(r"\d+%\|")


class _Exit(BaseException):
    """What `os._exit` was called with."""


def command(name: str, typed: str, out: Path) -> Command:
    """The right command line of a script, and then what is typed wrongly.

    Args:
        name: of `SCRIPTS`.
        typed: as in a shell: NAME=VALUE words may come first, and then a file of settings or other
            words without a flag, which are put before the right flags. "{out}": the output folder.
        out: the output folder.
    """
    script, right = SCRIPTS[name]
    words = shlex.split(typed.format(out=out))
    variables, before = {}, []
    while words and "=" in words[0] and not words[0].startswith("-"):
        key, value = words.pop(0).split("=", 1)
        variables[key] = value
    while words and not words[0].startswith("--"):
        before.append(words.pop(0))
    return Command(script, [*before, *shlex.split(right.format(out=out)), *words], variables)


def exit_code(asked: Command) -> int:
    """Run the script here; whatever ends it, this process continues.

    The environment, `sys.argv` and `sys.path` are afterwards as they were.
    """

    def leave(code: int = 0) -> NoReturn:
        raise _Exit(code)

    with _as_started(asked), mock.patch("os._exit", leave):
        try:
            runpy.run_path(str(asked.script), run_name="__main__")
        except _Exit as left:
            return int(left.args[0])
        except SystemExit as left:
            return left.code if isinstance(left.code, int) else int(left.code is not None)
    return 0


@contextlib.contextmanager
def _as_started(asked: Command) -> Iterator[None]:
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    environment |= asked.variables
    argv, path = sys.argv, list(sys.path)
    with mock.patch.dict(os.environ, environment, clear=True):
        sys.argv = [str(asked.script), *asked.arguments]
        try:
            yield
        finally:
            sys.argv, sys.path[:] = argv, path


def error_line(stderr: str) -> str:
    """The last line, which alone tells of an error."""
    # A process that ends at once has no time to draw its bar once more, as it does here.
    lines = [line for line in stderr.splitlines() if line.strip() and not BAR.search(line)]
    assert "Traceback" not in stderr, stderr[-3000:]
    assert [line for line in lines if line.startswith("error")] == lines[-1:], stderr[-3000:]
    return lines[-1]
