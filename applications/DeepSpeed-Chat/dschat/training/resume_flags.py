"""The flags of resumable checkpoints, the same for every training script.

Only the standard library and `dschat.config` are imported, so that `--help` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dschat.config import flag, require


@dataclass
class ResumeFlags:
    """How often a run saves what it needs to go on, and where it goes on."""

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


def require_resume(config: Any) -> None:
    """Refuse numbers outside their range; raises `UserError`."""
    steps, keep = config.checkpoint_steps, config.checkpoint_keep
    require(steps >= 0, f"--checkpoint_steps {steps}: expected 0 or more.")
    require(keep >= 1, f"--checkpoint_keep {keep}: expected 1 or more.")
