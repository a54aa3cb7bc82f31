"""Thousands of PPO iterations of a tiny model: does anything grow with their number?

    python benchmarks/long_run.py [--steps 2000] [--warm_up 500]

The embedded example's data and model shape with random weights, resumable checkpoints included.
Prints the slopes (least squares after the warm-up) of resident memory, open files, child processes
and threads, and the seconds per iteration of the first and the last quarter after it; exit code 1
if memory grows by 1 KB an iteration or more, or files, processes or threads by one in a thousand.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

KILOBYTE = 1000.0
LIMIT = {"bytes": KILOBYTE, "files": 1e-3, "processes": 1e-3, "threads": 1e-3}
EVERY = 10


def usage() -> dict[str, float]:
    """This process's resident bytes, open files, child processes and threads.

    What the C library keeps of freed blocks is given back first (glibc), so that what is seen is
    what is held.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {
        "bytes": float(pages * os.sysconf("SC_PAGE_SIZE")),
        "files": float(len(os.listdir("/proc/self/fd"))),
        "processes": float(len(children)),
        "threads": float(len(os.listdir("/proc/self/task"))),
    }


class Probe:
    """Looks at the process every few iterations, in place of an evaluation."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def __call__(self, trainer: Any) -> dict[str, float]:
        row = {"iteration": float(trainer.iteration), "at": time.perf_counter(), **usage()}
        self.rows.append(row)
        return {name: row[name] for name in LIMIT}

    def slope(self, name: str, warm_up: int) -> float:
        """Per iteration, after the warm-up."""
        kept = [row for row in self.rows if row["iteration"] >= warm_up]
        x, y = (np.array([row[key] for row in kept]) for key in ("iteration", name))
        return float(np.polyfit(x, y, 1)[0])

    def seconds(self, warm_up: int) -> tuple[float, float]:
        """Median seconds per iteration in the first and the last quarter after the warm-up."""
        kept = [row for row in self.rows if row["iteration"] >= warm_up]
        times = np.diff([row["at"] for row in kept]) / np.diff([row["iteration"] for row in kept])
        quarter = max(1, len(times) // 4)
        return float(np.median(times[:quarter])), float(np.median(times[-quarter:]))


def write_models(folder: Path) -> None:
    """Data, an untrained policy, and an untrained reward model of the same shape."""
    import torch
    from dschat.example.dataset import write_dataset
    from dschat.example.model import build_tokenizer, model_config, write_model
    from transformers import LlamaForSequenceClassification

    write_dataset(folder / "data", 1, 4000, 10)
    write_model(folder / "actor", 1)
    tokenizer = build_tokenizer()
    config = model_config(tokenizer)
    config.num_labels = 1
    torch.manual_seed(2)
    LlamaForSequenceClassification(config).save_pretrained(folder / "reward")
    tokenizer.save_pretrained(folder / "reward")


def run(folder: Path, steps: int) -> Probe:
    """PPO with a KL penalty, 8 responses of up to 16 tokens an iteration."""
    from dschat.online.run import Extras, train_online
    from dschat.settings.online import online_config

    write_models(folder)
    config = online_config(
        data_path=[str(folder / "data")],
        data_split="0,0,1",
        actor_model_name_or_path=str(folder / "actor"),
        critic_model_name_or_path=str(folder / "reward"),
        output_dir=str(folder / "out"),
        max_prompt_seq_len=120,
        max_answer_seq_len=16,
        per_device_generation_batch_size=8,
        per_device_training_batch_size=8,
        num_train_epochs=-(-steps * 8 // 3000),
        actor_learning_rate=1e-5,
        enable_ema=True,
        save_steps=0,
        checkpoint_steps=100,
        enable_test_mode=True,
        test_stop_step=steps,
    )
    config.validate()
    probe = Probe()
    train_online(config, Extras(evaluate=probe, evaluate_every=EVERY))
    return probe


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000, help="iterations of PPO")
    parser.add_argument("--warm_up", type=int, default=500, help="iterations before the fit")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="long-run-") as folder:
        probe = run(Path(folder), arguments.steps)
    failed = False
    print(f"{arguments.steps} iterations, slopes after the first {arguments.warm_up}:")
    for name, limit in LIMIT.items():
        slope = probe.slope(name, arguments.warm_up)
        failed |= slope >= limit
        ends = f"{probe.rows[0][name]:.0f} at the start, {probe.rows[-1][name]:.0f} at the end"
        print(f"  {name}: {slope:+.4g} an iteration (limit {limit:g}; {ends})")
    first, last = probe.seconds(arguments.warm_up)
    print(
        f"  seconds an iteration: {first:.4f} first quarter, {last:.4f} last ({last / first:.3f})"
    )
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
