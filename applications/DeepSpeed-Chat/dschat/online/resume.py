"""What an online run needs to go on, in one checkpoint between two iterations.

Nothing in an iteration but its place in the run, the engines, the moving average and the random
numbers outlasts it: prompts, sampling and orders are functions of the seed and the iteration, and
no experience is carried over. So the same iterations follow as without the interruption.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dschat.checkpoint.engine_checkpoint import load_engine, load_values, save_engine
from dschat.checkpoint.resumable import Checkpoint, new_checkpoint, prune
from dschat.checkpoint.same_run import plain_settings
from dschat.data.prompts import PromptExample
from dschat.errors import UserError
from dschat.online.pretraining_mix import PretrainingMix
from dschat.runtime import distributed
from dschat.runtime.deepspeed_config import read_overrides
from dschat.runtime.distributed import on_all_ranks
from dschat.runtime.files import atomic_write_text, explain_write_errors
from dschat.runtime.random_states import random_states, set_random_states

if TYPE_CHECKING:
    from dschat.online.trainer import OnlineTrainer

MAY_DIFFER = {
    "offload_reference_model",
    "reference_residency",
    "actor_gradient_checkpointing",
    "critic_gradient_checkpointing",
    "max_bad_steps",
    "profile_steps",
    "vllm_gpu_memory_utilization",
}
"""Settings of step 3 that move or recompute tensors without changing what comes out.

vLLM's share of memory can change how it batches, and so its rounding, of which nothing is promised.
"""


def run_facts(
    prompts: Sequence[PromptExample], mix: PretrainingMix | None, deepspeed_config: str | None
) -> dict[str, Any]:
    """What a resumed run must share beside the settings: its data and DeepSpeed's own file."""
    crc = 0
    for prompt in prompts:
        crc = zlib.crc32(np.asarray(prompt.ids, dtype=np.int64).tobytes(), crc)
    return {
        "prompts": len(prompts),
        "checksum_of_the_prompts": crc,
        "checksum_of_the_text": None if mix is None else zlib.crc32(mix.blocks.tobytes()),
        "deepspeed_config": read_overrides(deepspeed_config),
    }


def _engines(trainer: OnlineTrainer) -> dict[str, Any]:
    return {"actor": trainer.actor} | ({"critic": trainer.critic} if trainer.critic else {})


def save_resumable(trainer: OnlineTrainer) -> Path:
    """Write output_dir/resumable-N, N the iterations done; all ranks call it.

    Raises:
        UserError: (on all ranks) the disk is full or the folder may not be written to.
    """
    config = trainer.config
    assert config.output_dir is not None
    with new_checkpoint(
        config.output_dir,
        trainer.iteration,
        trainer.settings,
        **trainer.facts,
        resolved=plain_settings(trainer.resolved or trainer.settings),
    ) as folder:
        for name, engine in _engines(trainer).items():
            save_engine(engine, folder / name)
        with on_all_ranks(), explain_write_errors(folder):
            torch.save(_own_state(trainer), folder / f"rank-{distributed.rank()}.pt")
            if distributed.is_main():
                (folder / "progress.json").write_text(json.dumps(trainer.progress()))
                # What the log says so far: a run that goes on writes each row once.
                shutil.copyfile(trainer.log.path, folder / "metrics.jsonl")
    prune(config.output_dir, config.checkpoint_keep, trainer.iteration)
    return Path(config.output_dir) / f"resumable-{trainer.iteration}"


def _own_state(trainer: OnlineTrainer) -> dict[str, Any]:
    """What this rank alone knows."""
    average = trainer.average
    return {
        "random": random_states(),
        "average": None if average is None else average.state_dict(),
    }


def load_resumable(trainer: OnlineTrainer, checkpoint: Checkpoint) -> None:
    """Put a trainer that was just built where the checkpoint was written; all ranks call it.

    Raises:
        UserError: (on all ranks) a file does not fit.
    """
    folder = checkpoint.folder
    with on_all_ranks():
        if not (folder / f"rank-{distributed.rank()}.pt").is_file():
            raise UserError(
                f"{folder} has no rank-{distributed.rank()}.pt where rank {distributed.rank()} "
                "runs. Give a checkpoint on a disk that all machines share."
            )
    for name, engine in _engines(trainer).items():
        load_engine(engine, folder / name)
    with on_all_ranks():
        try:
            own = load_values(folder / f"rank-{distributed.rank()}.pt")
            trainer.set_progress(json.loads((folder / "progress.json").read_text()))
            set_random_states(own["random"])
            if trainer.average is not None:
                trainer.average.load_state_dict(own["average"])
            if distributed.is_main():
                text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
                atomic_write_text(trainer.log.path, text)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder} does not fit this version: {error!r}.") from error
    distributed.log_main(f"going on from {folder} at iteration {trainer.iteration}")
