"""Where a fine-tuning run begins: anew, at a checkpoint, or nowhere, because it is finished."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dschat.checkpoint.resumable import (
    Checkpoint,
    choose,
    freeze_clock,
    refuse_old_checkpoints,
    remove_leftovers,
)
from dschat.checkpoint.same_run import check_same_facts, check_same_run, plain_settings
from dschat.data import clock
from dschat.errors import UserError
from dschat.runtime import distributed
from dschat.runtime.deepspeed_config import read_overrides
from dschat.runtime.distributed import on_all_ranks
from dschat.runtime.files import atomic_write_json, atomic_write_text
from dschat.runtime.run_files import MetricsLog, library_versions

FINISHED = "finished.json"
MAY_DIFFER = {"gradient_checkpointing", "max_bad_steps", "report_to"}
"""Settings of steps 1, 2 and DPO, beside `PLACE`, that change no result."""


@dataclass(frozen=True)
class Beginning:
    """What a run starts from.

    Attributes:
        settings: all settings, resolved: they are sealed into checkpoints.
        checkpoint: the one to go on from; None: a new run.
        result: of a run that has nothing left to train, its last evaluation; else None.
    """

    settings: Any
    checkpoint: Checkpoint | None = None
    result: dict[str, float] | None = None


def begin(settings: Any) -> Beginning:
    """Find out what --resume_from_checkpoint means in --output_dir; all ranks call it.

    Args:
        settings: the resolved settings, a dataclass with `ResumeFlags`.

    Raises:
        UserError: (on all ranks) the checkpoint is torn or of another run, or a new run would
            start beside the checkpoints of an old one.
    """
    output_dir, request = Path(settings.output_dir), settings.resume_from_checkpoint
    if request is None:
        refuse_old_checkpoints(output_dir)
        unmark_finished(output_dir)
        freeze_clock(None)
        return Beginning(settings)
    finished = read_finished(output_dir)
    if finished is not None:
        run, model, result = finished
        check_same_run(run, settings, MAY_DIFFER)
        freeze_clock(run)
        distributed.log_main(f"The run in {output_dir} is finished; its model is {model}.")
        return Beginning(settings, result=result)
    checkpoint = choose(output_dir, request)
    freeze_clock(checkpoint)
    if checkpoint is not None:
        check_same_run(checkpoint, settings, MAY_DIFFER)
        distributed.log_main(f"going on from {checkpoint.folder}, step {checkpoint.step}")
    remove_leftovers(output_dir)
    return Beginning(settings, checkpoint)


def read_finished(output_dir: Path) -> tuple[Checkpoint, str, dict[str, float]] | None:
    """What `mark_finished` wrote, where the model that it names is still there."""
    found = None
    with on_all_ranks():
        if distributed.is_main() and (output_dir / FINISHED).is_file():
            try:
                value = json.loads((output_dir / FINISHED).read_text(encoding="utf-8"))
                run = Checkpoint(output_dir, value["step"], value["settings"], value["run"])
                model, result = str(value["model"]), dict(value["result"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{output_dir / FINISHED} cannot be read ({error}). Remove it to go on from "
                    "the newest checkpoint."
                ) from error
            if (output_dir / model / "config.json").is_file():
                found = run, str(output_dir / model), result
    return distributed.broadcast_object(found)


def unmark_finished(output_dir: str | Path) -> None:
    """A new run begins in the folder."""
    if distributed.is_main():
        (Path(output_dir) / FINISHED).unlink(missing_ok=True)


def mark_finished(
    settings: Any,
    step: int,
    model: Path,
    result: dict[str, float],
    output_dir: str | Path | None = None,
) -> None:
    """Write output_dir/finished.json, so that a resumed run knows that nothing is left to train.

    Args:
        settings: see `Beginning`.
        step: optimiser steps done.
        model: the folder of the trained model, in output_dir.
        result: the last evaluation.
        output_dir: where the settings call it something else.
    """
    folder = Path(output_dir or settings.output_dir)
    with on_all_ranks():
        if distributed.is_main():
            value = {
                "step": step,
                "model": str(model.relative_to(folder)),
                "result": result,
                "settings": plain_settings(settings),
                "run": {
                    "world_size": distributed.world_size(),
                    "versions": library_versions(),
                    "clock": clock.frozen(),
                },
            }
            atomic_write_json(folder / FINISHED, value)


def checked_facts(beginning: Beginning, train: Any, held_out: Any) -> dict[str, Any]:
    """What a resumed run must share beside the settings: the rows, and DeepSpeed's own file.

    Args:
        train, held_out: `datasets.Dataset` whose columns are lists of integers.

    Raises:
        UserError: they differ from what the checkpoint was written with.
    """
    facts: dict[str, Any] = {
        "training_rows": len(train),
        "held_out_rows": len(held_out),
        "checksum_of_the_rows": checksum(held_out, checksum(train)),
        "contents_of_the_deepspeed_config": read_overrides(beginning.settings.deepspeed_config),
    }
    if beginning.checkpoint is not None:
        check_same_facts(beginning.checkpoint, **facts)
    return facts


def checksum(rows: Any, start: int = 0) -> int:
    """CRC-32 of all numbers and lengths in the columns of a `datasets.Dataset` of integer lists."""
    if len(rows) == 0:
        return start
    for table in rows.with_format("arrow").iter(batch_size=1000):
        for name in sorted(table.column_names):
            column = table.column(name).combine_chunks()
            for numbers in (column.value_lengths(), column.flatten()):
                values = numbers.to_numpy(zero_copy_only=False).astype(np.int64)
                start = zlib.crc32(values.tobytes(), start)
    return start


def put_back_metrics(beginning: Beginning, log: MetricsLog) -> None:
    """Make metrics.jsonl what it was at the checkpoint, before `log` is opened to go on with it.

    Raises:
        UserError: (on all ranks) it cannot be read or written.
    """
    with on_all_ranks():
        if beginning.checkpoint is not None and distributed.is_main():
            path = beginning.checkpoint.folder / "metrics.jsonl"
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise UserError(f"{path} cannot be read: {error}") from error
            atomic_write_text(log.path, text)
