"""Running a step over all items: what is there is kept, the rest is shared among the ranks."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torch
from tqdm import tqdm

from dschat.errors import UserError
from dschat.evaluation.respond.partial import PartialResults, Rows
from dschat.runtime.distributed import is_main, log_main, on_all_ranks, rank, world_size

Batch: TypeAlias = Callable[[list[int]], list[dict[str, Any]]]


def run_stage(
    partial: PartialResults,
    stage: str,
    lengths: Sequence[int],
    batch_size: int,
    opened: Callable[[], AbstractContextManager[Batch]],
) -> Rows:
    """Make the rows of a stage that are not there yet, each rank a share. All ranks call.

    Args:
        lengths: of all items, in tokens; the longest are made first, and like with like.
        opened: the models in memory: a function from indices to rows with these `index`es. It is
            not called where nothing is left.

    Returns:
        All rows, on every rank.
    """
    done = partial.rows(stage)
    todo = [i for i in range(len(lengths)) if i not in done]
    if todo and done:
        log_main(f"{stage}: {len(done)} of {len(lengths)} are done already")
    if todo:
        mine = sorted(todo, key=lambda i: (-lengths[i], i))[rank() :: world_size()]
        with on_all_ranks():
            if mine:
                _run_share(partial, stage, mine, batch_size, opened)
        _free_memory()
        done = partial.rows(stage)
    missing = len(lengths) - len(done)
    if missing:
        raise RuntimeError(
            f"{missing} rows of the stage {stage!r} are not in {partial.folder}; all ranks must "
            "see one file system, and no other run may write there."
        )
    return done


def _run_share(
    partial: PartialResults,
    stage: str,
    mine: list[int],
    batch_size: int,
    opened: Callable[[], AbstractContextManager[Batch]],
) -> None:
    bar = tqdm(total=len(mine), desc=stage, unit="response", disable=not is_main())
    with opened() as compute, partial.writer(stage) as write, bar:
        for start in range(0, len(mine), batch_size):
            batch = mine[start : start + batch_size]
            try:
                write(compute(batch))
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"The GPU's memory is too small for --batch-size {batch_size} ({stage}, the "
                    "longest first). Start again with a smaller one: what is done is kept."
                ) from error
            bar.update(len(batch))


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
