"""A run's device, and its stages: finished rows are kept, the rest is shared among the ranks."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torch
from tqdm import tqdm
from transformers import AutoTokenizer

from dschat.data.ends import set_stops
from dschat.errors import UserError
from dschat.evaluation.respond.partial import PartialResults, Rows
from dschat.models.loading import load_pretrained, load_tokenizer
from dschat.runtime.distributed import (
    check_ranks,
    init_distributed,
    is_main,
    log_main,
    on_all_ranks,
    rank,
    world_size,
)
from dschat.settings.command_line import require
from dschat.settings.rollout.stops import StopFlags

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
            write(_within_memory(compute, batch, batch_size, stage))
            bar.update(len(batch))


def in_batches(
    lengths: Sequence[int], batch_size: int, opened: AbstractContextManager[Batch], what: str
) -> list[dict[str, Any]]:
    """The rows of all items, in memory and on one rank; like `run_stage` otherwise."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    found: Rows = {}
    with opened as compute:
        for start in range(0, len(order), batch_size):
            rows = _within_memory(compute, order[start : start + batch_size], batch_size, what)
            found.update({row["index"]: row for row in rows})
    _free_memory()
    return [found[i] for i in range(len(lengths))]


def _within_memory(
    compute: Batch, batch: list[int], batch_size: int, what: str
) -> list[dict[str, Any]]:
    try:
        return compute(batch)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"The GPU's memory is too small for --batch-size {batch_size} ({what}, the longest "
            "first). Start again with a smaller one; finished rows of an output file are kept."
        ) from error


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def choose_device(gpu: int | None, local_rank: int = -1) -> torch.device:
    """The GPU with that number, else the first one, else the CPU; this rank's own under deepspeed.

    Raises:
        UserError: there is no such GPU, several ranks would share it, or see `check_ranks`.
    """
    check_ranks()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        require(
            gpu is None,
            f"--gpu {gpu} is for one process, and each of several ranks has a GPU of its own. Name "
            "them to the launcher: deepspeed -i localhost:0,1 ...",
        )
        return init_distributed(local_rank)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = f"there are {count}, numbered from 0" if count else "torch sees no GPU here"
    require(
        gpu is None or gpu < count,
        f"--gpu {gpu}: {there}. Give another number, or leave --gpu out to "
        f"{'take the first one' if count else 'run on the CPU'}.",
    )
    if count == 0:
        return torch.device("cpu")
    torch.cuda.set_device(gpu or 0)
    return torch.device("cuda", gpu or 0)


def policy_tokenizer(
    path: str, end_token: str | None, flag: str = "model", stops: StopFlags | None = None
) -> Any:
    """The policy's tokenizer with its ends; see `load_tokenizer` and `set_stops`.

    Where it has no padding token another one pads: padding is masked.
    """
    plain = load_pretrained(AutoTokenizer, path, flag)
    pad = None if plain.pad_token else plain.unk_token or end_token or plain.eos_token
    tokenizer = load_tokenizer(path, flag, end_token, pad_token=pad)
    if stops is not None:
        set_stops(tokenizer, stops)
    return tokenizer
