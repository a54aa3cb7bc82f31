"""The command line of every published script and console command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dschat.commands import compare, dpo, grpo, judge, ppo, respond, reward, sft
from dschat.settings.command_line import CommandLine
from dschat.settings.comparison import COMPARE, PLOT
from dschat.settings.judging import JUDGE
from launch import DPO, MULTI_REFERENCE, ROOT, STEP1, STEP2, TRAINING

STEP3 = TRAINING / "step3_rlhf_finetuning"
SCRIPTS: dict[Path, CommandLine[Any]] = {
    STEP1: sft.COMMAND_LINE,
    STEP2: reward.COMMAND_LINE,
    STEP3 / "main.py": ppo.COMMAND_LINE,
    STEP3 / "main_wpr.py": ppo.WASSERSTEIN,
    STEP3 / "main_apps.py": ppo.PROGRAMS,
    STEP3 / "main_wpr_apps.py": ppo.WASSERSTEIN_PROGRAMS,
    MULTI_REFERENCE / "gsm8k_grpo.py": grpo.COMMAND_LINE,
    DPO: dpo.COMMAND_LINE,
    ROOT / "inference" / "inference_with_rewards.py": respond.COMMAND_LINE,
    ROOT / "inference" / "inference_apps.py": respond.PROGRAMS,
    ROOT / "evaluation" / "compare.py": COMPARE,
    ROOT / "evaluation" / "gpt4-eval.py": JUDGE,
    ROOT / "evaluation" / "human-eval.py": judge.BY_HAND,
    ROOT / "evaluation" / "plot_runs.py": PLOT,
    ROOT / "evaluation" / "tools" / "sample_from_dataset.py": judge.SAMPLE,
}
COMMANDS: dict[str, Any] = {
    "dschat-sft": sft,
    "dschat-reward": reward,
    "dschat-ppo": ppo,
    "dschat-grpo": grpo,
    "dschat-dpo": dpo,
    "dschat-respond": respond,
    "dschat-compare": compare,
}


def command_line(script: str) -> CommandLine[Any]:
    """The command line of the script whose path ends so, or of a console command."""
    if script in COMMANDS:
        command = COMMANDS[script]
        return COMPARE if command is compare else command.COMMAND_LINE
    (found,) = (line for path, line in SCRIPTS.items() if str(path).endswith(f"/{script}"))
    return found
