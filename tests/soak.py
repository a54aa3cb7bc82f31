"""Ten kills of every kind of step-3 run; the survivor must be the uninterrupted run, bit for bit.

    scripts/soak.sh [--kills 10] [--seed 1] [--only NAME]

Prints one line a setting; exit code 1 if any differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from killing import LIMIT_SECONDS, Outcome, rows, run_with_kills, start
from launch import TRAINING
from online_fixtures import online_settings
from safetensors.torch import load_file
from tiny import build_tiny_tokenizer, tiny_config

STEP3 = TRAINING / "step3_rlhf_finetuning"
SETTINGS: dict[str, tuple[str, int, dict[str, Any]]] = {
    f"{script}-zero{stage}-ranks{ranks}": (
        f"{script}.py",
        ranks,
        {"actor_zero_stage": stage, "critic_zero_stage": stage, **changes},
    )
    for script, changes in (
        ("main", {"enable_ema": True}),
        ("main_wpr", {"cost_dim": 8, "top_k": 8, "epsilon": 1.0}),
    )
    for stage in (0, 2, 3)
    for ranks in (1, 2)
}


def make_models(folder: Path) -> tuple[Path, Path]:
    """A random tiny policy and a random tiny reward model."""
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification

    tokenizer = build_tiny_tokenizer()
    for seed, name in enumerate(("actor", "reward")):
        torch.manual_seed(seed)
        config = tiny_config(tokenizer, **({"num_labels": 1} if seed else {}))
        model = (LlamaForSequenceClassification if seed else LlamaForCausalLM)(config)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder / "actor", folder / "reward"


def flags_of(settings: dict[str, Any]) -> list[str]:
    """A command line."""
    flags = []
    for name, value in settings.items():
        values = value if isinstance(value, list) else [value]
        flags += [f"--{name}", *([] if value is True else map(str, values))]
    return flags


def differences(one: Path, other: Path) -> str:
    """What differs between two runs: rows of metrics (but times), weights; empty: nothing."""
    a, b = rows(one), rows(other)
    if a != b:
        place = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), "the end")
        return f"metrics differ from row {place} on ({len(a)} and {len(b)} rows)"
    files = sorted(p.relative_to(one) for p in one.glob("step-*/*/model.safetensors"))
    if not files:
        return "there is no final model"
    for file in files:
        x, y = load_file(one / file), load_file(other / file)
        if x.keys() != y.keys() or any(not torch.equal(x[name], y[name]) for name in x):
            return f"{file} differs"
    return ""


def soak(name: str, folder: Path, kills: int, seed: int) -> tuple[Outcome, str]:
    """One setting: the whole run, the killed run, and what differs."""
    script, ranks, changes = SETTINGS[name]
    models = make_models(folder / "models")

    def settings(output: str, **more: Any) -> dict[str, Any]:
        batch = {
            "per_device_generation_batch_size": 4 // ranks,
            "per_device_training_batch_size": 4 // ranks,
            "gradient_accumulation_steps": 1,
            "num_train_epochs": 2,
        }
        where = {"output_dir": str(folder / output)}
        return online_settings(folder, *models, **batch, **changes, **where, **more)

    log = folder / "whole.log"
    if start(STEP3 / script, flags_of(settings("whole")), ranks, log).wait(LIMIT_SECONDS) != 0:
        raise RuntimeError(log.read_text()[-3000:])
    resumed = settings("killed", checkpoint_steps=1, resume_from_checkpoint="auto")
    outcome = run_with_kills(
        STEP3 / script, flags_of(resumed), ranks, folder / "killed", kills, seed
    )
    return outcome, differences(folder / "whole", folder / "killed")


def main() -> None:
    """Every setting in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="kills per setting")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the kills")
    parser.add_argument("--only", choices=list(SETTINGS), help="one setting instead of all")
    arguments = parser.parse_args()
    failed = False
    for name in [arguments.only] if arguments.only else SETTINGS:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            outcome, difference = soak(name, Path(folder), arguments.kills, arguments.seed)
        failed |= bool(difference) or outcome.kills < arguments.kills
        print(
            f"{name}: {outcome.kills} kills ({outcome.during_save} during a save) after iterations "
            f"{', '.join(map(str, outcome.at))}: {difference or 'equal bit for bit'} "
            f"({time.monotonic() - begun:.0f} s)",
            flush=True,
        )
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
