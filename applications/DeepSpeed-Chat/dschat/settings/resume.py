"""The flags that every training script has: resumable checkpoints, and steps left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dschat.settings.command_line import Settings, flag, require


@dataclass
class ResumeFlags(Settings):
    """How often a run saves what it needs to go on, where it goes on, and when it gives up."""

    checkpoint_steps: int = flag(
        0,
        "Save a resumable checkpoint to output_dir/resumable-N every so many iterations (step 3 "
        "and GRPO) or optimiser steps (steps 1, 2 and DPO); 0: only when SIGTERM stops the run.",
    )
    checkpoint_keep: int = flag(1, "How many of the newest resumable checkpoints are kept.")
    resume_from_checkpoint: str | None = flag(
        None,
        "Go on from a resumable checkpoint: auto, the newest whole one in output_dir (a new run "
        "where there is none), or the path of a resumable-N folder.",
    )
    max_bad_steps: int = flag(
        3,
        "Stop after so many optimiser steps in a row that were left out because a loss, a gradient "
        "or what they are made of (step 3: rewards, log-probabilities, advantages) was not finite. "
        "What led to them is kept in output_dir/bad_steps.",
    )


def require_resume(config: Any) -> None:
    """Refuse numbers outside their range; raises `UserError`."""
    steps, keep = config.checkpoint_steps, config.checkpoint_keep
    require(steps >= 0, f"--checkpoint_steps {steps}: expected 0 or more.")
    require(keep >= 1, f"--checkpoint_keep {keep}: expected 1 or more.")
    bad = config.max_bad_steps
    require(bad >= 1, f"--max_bad_steps {bad}: expected 1 or more.")
