"""A whole RLHF step, phase by phase, beside TRL's GRPOTrainer on the same work.

    python benchmarks/step.py

starts a process for each system (this project's GRPO and PPO, TRL's GRPO), has each make a step to
warm up, then lets them take turns ``--rounds`` times, one step each, and prints medians. Both train
the same random model on prompts and responses of equal length (the end token cannot be sampled),
with one reference, one optimiser step of AdamW and no gradient checkpointing. TRL has no PPO
trainer to compare with: PPO's phases are shown for themselves, from one step. On a busy machine set
OMP_NUM_THREADS=1; only the ratios of steps that took turns mean something there, and CPU seconds
more than others. "of peak" is the arithmetic that the step needs (`step_needs.py`) per second, in
parts of what a large product reaches between the steps of this same run.

Peak memory is that of a whole process beyond its imports: models, optimiser and two steps. On a CPU
it comes from processes of its own, in which the C library gives freed blocks back at once; "with
heap" is that of the timed processes, in which its heap keeps them (hundreds of MiB in some runs and
not in others). On a GPU it is `torch.cuda.max_memory_allocated`, and processes run one after the
other. "needed" is the count of weights, gradients, moments and frozen copies.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from step_needs import floor_mib, operations, products_per_second
from step_sizes import SIZES, Size, write_models
from step_worker import workers

ORDER = ("generate", "score", "penalty", "actor update", "critic update", "other")
WARM_UP = 1
STEPS_OF_PPO = 1
STEPS_FOR_MEMORY = 2
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "1048576"}


def measure(size: Size, names: list[str], rounds: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Seconds of each round, phases and peak MiB by system."""
    write_models(size, folder)
    on_gpu = torch.cuda.is_available()
    found: dict[str, dict[str, Any]] = {
        n: {"seconds": [], "cpu": [], "phases": [], "products": []} for n in names
    }
    groups = [[n] for n in names] if on_gpu else [names]
    for group in groups:
        commands = {n: _command(n, size, folder, "time", WARM_UP + rounds + 1) for n in group}
        with workers(commands, folder) as running:
            for i in range(WARM_UP + rounds):
                for name in group:
                    if "ppo" in name and i >= WARM_UP + STEPS_OF_PPO:
                        continue
                    said = running[name].step()
                    if i >= WARM_UP:
                        found[name]["seconds"].append(said["seconds"])
                        found[name]["cpu"].append(said["cpu"])
                        found[name]["phases"].append(said.get("phases", {}))
                        found[name]["products"].append(products_per_second(size))
            for name in group:
                found[name]["peak_mib"] = running[name].end()["peak_mib"]
                found[name]["with_heap"] = found[name]["peak_mib"]
    if not on_gpu:
        commands = {n: _command(n, size, folder, "memory", STEPS_FOR_MEMORY + 1) for n in names}
        with workers(commands, folder, GIVE_BACK) as running:
            for _ in range(STEPS_FOR_MEMORY):
                for worker in running.values():  # nobody times them: at once
                    worker.ask()
                for worker in running.values():
                    worker.answer()
            for name, worker in running.items():
                found[name]["peak_mib"] = worker.end()["peak_mib"]
    return found


def _command(
    name: str, size: Size, folder: Path, purpose: str, steps: int
) -> tuple[str, list[str]]:
    output = str(folder / purpose / name.replace(" ", "_").replace(",", ""))
    plan = str(steps)
    if name == "TRL grpo":
        return "step_trl.py", [size.name, str(folder), output, plan]
    algorithm = "ppo" if "ppo" in name else "grpo"
    return "step_ours.py", [size.name, str(folder), output, algorithm, plan]


def show(size: Size, found: dict[str, dict[str, Any]]) -> None:
    """Print the tables of a size."""
    tokens = size.responses * size.response
    print(
        f"\n{size.name}: {size.responses} responses of {size.response} tokens to prompts of "
        f"{size.prompt}, groups of {size.group}, {size.model['vocab_size']:,} tokens, {size.dtype}"
    )
    print(
        f"  {'':14} {'s/step':>8} {'least to most':>15} {'CPU s':>7} {'tokens/s':>9} "
        f"{'of peak':>8} {'needed':>7} {'peak MiB':>9} {'with heap':>10}"
    )
    for name, each in found.items():
        middle, cpu = statistics.median(each["seconds"]), statistics.median(each["cpu"])
        low, high = min(each["seconds"]), max(each["seconds"])
        algorithm = "ppo" if "ppo" in name else "grpo"
        share = operations(size, algorithm) / middle / max(each["products"])
        print(
            f"  {name:14} {middle:8.3f} {f'{low:.2f} to {high:.2f}':>15} {cpu:7.2f} "
            f"{tokens / middle:9.0f} {share:8.0%} {floor_mib(size, algorithm):7.0f} "
            f"{_mib(each['peak_mib']):>9} {_mib(each['with_heap']):>10}"
        )
    products = max(max(each["products"]) for each in found.values())
    print(
        f"  a GRPO step needs {operations(size, 'grpo') / 1e12:.3g} TFLOP; products here reach "
        f"{products / 1e9:.0f} GFLOP/s"
    )
    for name, each in found.items():
        if not each["phases"][0]:
            continue
        print(f"  {name}, seconds: " + ", ".join(_phase(p, each["phases"]) for p in ORDER))
    if "TRL grpo" in found:
        _compare(found, floor_mib(size, "grpo"))


def _mib(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f}"


def _phase(name: str, rows: list[dict[str, float]]) -> str:
    return f"{name} {statistics.median(row.get(name, 0.0) for row in rows):.3f}"


def _compare(found: dict[str, dict[str, Any]], floor: float) -> None:
    base = found["TRL grpo"]
    for name, each in found.items():
        if "grpo" not in name or each is base:
            continue
        ratios = [b / a for a, b in zip(each["seconds"], base["seconds"], strict=True)]
        speed = statistics.median(base["seconds"]) / statistics.median(each["seconds"])
        cpu = statistics.median(base["cpu"]) / statistics.median(each["cpu"])
        line = (
            f"  {name}: {speed:.2f} times TRL's throughput (ratio of medians; round by round "
            f"{min(ratios):.2f} to {max(ratios):.2f}; by CPU seconds {cpu:.2f})"
        )
        if each["peak_mib"] and base["peak_mib"]:
            above = (each["peak_mib"] - floor) / (base["peak_mib"] - floor)
            line += (
                f", {each['peak_mib'] / base['peak_mib']:.0%} of its peak memory, {above:.0%} of "
                "what it takes beyond what is needed"
            )
        print(line)


def main() -> None:
    """Parse the flags, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = ["0.5b", "2b"] if torch.cuda.is_available() else ["tiny", "20m"]
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=default)
    parser.add_argument("--rounds", type=int, default=5, help="steps of each system, in turn")
    known = {"GRPO": "ours, grpo", "TRL": "TRL grpo", "PPO": "ours, ppo"}
    parser.add_argument("--systems", nargs="+", choices=list(known), default=list(known))
    parser.add_argument("--quick", action="store_true", help="two rounds, without PPO")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.systems = 2, ["GRPO", "TRL"]
    names = [known[each] for each in options.systems]
    if not torch.cuda.is_available():
        # Processes that take turns shall not spin while others work.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, threads {threads}"
    print(f"{where}; {options.rounds} steps of each in turn after {WARM_UP} to warm up; medians")
    for name in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            show(SIZES[name], measure(SIZES[name], names, options.rounds, Path(folder)))


if __name__ == "__main__":
    main()
