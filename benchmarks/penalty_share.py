"""How much of a PPO iteration the penalties take, beyond KL, at the quickstart's size.

    bash scripts/quickstart.sh
    python benchmarks/penalty_share.py --quickstart runs/quickstart-seed1

starts the scripts of step 3 as the quickstart does, from its fine-tuned model and reward model, for
``--steps`` iterations each, in turn, ``--rounds`` times; the first iteration of a run is left out.
Printed are medians of `metrics.jsonl`'s times over all runs, the score phase (log-probabilities,
reward and penalty) beside the whole iteration. On a busy machine set OMP_NUM_THREADS=1, and look
at the spread: "quartiles" are those of the score phase.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

STEP_3 = Path(__file__).parents[1] / "applications/DeepSpeed-Chat/training/step3_rlhf_finetuning"
RUNS = {
    "KL": ("main.py", ["--kl_ctl", "0.1"]),
    "published Wasserstein": (
        "main_wpr.py",
        ["--kl_ctl", "0.3", "--epsilon", "0.3", "--normalize"],
    ),
    "published, eps 0.01": ("main_wpr.py", ["--kl_ctl", "0.05"]),
    "Sinkhorn divergence": (
        "main_wpr.py",
        ["--kl_ctl", "2.0", "--transport", "sinkhorn_divergence"],
    ),
}
FIXED = {
    "--data_split": "4,12,4",
    "--seed": "1",
    "--max_prompt_seq_len": "120",
    "--max_answer_seq_len": "32",
    "--temperature": "1.0",
    "--per_device_generation_batch_size": "64",
    "--per_device_training_batch_size": "32",
    "--ppo_epochs": "2",
    "--actor_learning_rate": "3e-4",
    "--critic_learning_rate": "1e-3",
    "--warmup_ratio": "0.05",
    "--clip_reward_value": "10",
    "--save_steps": "0",
}


def run(name: str, quickstart: Path, steps: int) -> list[dict[str, float]]:
    """The metrics of one run's iterations after the first."""
    script, own = RUNS[name]
    steps_of_reward_model = sorted(
        (quickstart / "reward_model").glob("step_*"), key=lambda path: int(path.name[5:])
    )
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(STEP_3 / script), *own, "--enable_test_mode"]
        command += [word for pair in FIXED.items() for word in pair]
        command += ["--data_path", str(quickstart / "example" / "data")]
        command += ["--data_output_path", str(quickstart / "cache")]
        command += ["--actor_model_name_or_path", str(quickstart / "sft")]
        command += ["--critic_model_name_or_path", str(steps_of_reward_model[-1])]
        command += ["--test_stop_step", str(steps), "--output_dir", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name} ended with an error:\n{done.stderr[-3000:]}")
        lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    iterations = [line for line in map(json.loads, lines) if "time/score_s" in line]
    return iterations[1:]


def main() -> None:
    """Parse the flags, run, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quickstart", type=Path, required=True, help="its output folder")
    parser.add_argument("--steps", type=int, default=8, help="iterations per run")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in RUNS}
    for _ in range(options.rounds):
        for name in RUNS:
            found[name] += run(name, options.quickstart, options.steps)
    print(f"{options.rounds} runs of {options.steps} iterations each, medians in milliseconds")
    print(f"  {'':24}   score  quartiles    total  tokens  beyond KL, share of total")
    base = 0.0
    for name, iterations in found.items():
        score = [1e3 * each["time/score_s"] for each in iterations]
        total = 1e3 * statistics.median(each["time/total_s"] for each in iterations)
        tokens = statistics.median(each["response_tokens"] for each in iterations)
        low, middle, high = statistics.quantiles(score, n=4)
        base = base or middle
        print(
            f"  {name:24} {middle:7.1f} {low:5.0f}-{high:<5.0f} {total:7.0f} {tokens:7.0f} "
            f"{(middle - base) / total:12.1%}"
        )


if __name__ == "__main__":
    main()
