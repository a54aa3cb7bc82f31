"""One process or many: start-up, reductions, and what only rank 0 does."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from dschat.errors import UserError, printable
from dschat.runtime.launchers import adopt_launcher
from dschat.settings.command_line import require

logger = logging.getLogger("dschat")

PATIENCE = datetime.timedelta(hours=1)
"""How long a rank waits for the others: one may be reading back a checkpoint of 100 GB."""


def quiet_libraries() -> None:
    """No telemetry, no progress bars but our own, no warnings that a user can do nothing about."""
    import datasets
    from huggingface_hub import constants
    from transformers.utils import logging as transformers_logging

    constants.HF_HUB_DISABLE_TELEMETRY = True
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch|transformers|deepspeed")
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*deprecated")
    warnings.filterwarnings("ignore", message="OMP_NUM_THREADS/MKL_NUM_THREADS unset")
    for name in ("DeepSpeed", "accelerate.accelerator"):
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    if not is_main():
        datasets.disable_progress_bars()
        transformers_logging.set_verbosity_error()
        logger.setLevel(logging.ERROR)


def init_distributed(local_rank: int = -1) -> torch.device:
    """Join the process group (one process without a launcher) and return this rank's device.

    NCCL on a GPU, gloo on CPU. Safe to call twice.

    Raises:
        UserError: see `adopt_launcher` and `check_ranks`; this rank sees no GPU of its own.
    """
    adopt_launcher()
    check_ranks()
    # Without LOCAL_SIZE DeepSpeed leaves out its shared-memory op, which leaks /dev/shm.
    os.environ.pop("LOCAL_SIZE", None)
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": str(max(local_rank, 0)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }.items():
        os.environ.setdefault(name, value)
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it found this
    import deepspeed

    # That op is compiled at first use (most of a minute) even where nothing calls it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if cuda:
        visible, local = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
        require(
            local < visible,
            f"This rank is number {local} of its node (LOCAL_RANK) and sees {visible} GPUs; "
            "expected one for every rank of the node. With SLURM use --gpus-per-node and no "
            "--gpus-per-task, or --gpu-bind=none.",
        )
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        deepspeed.init_distributed("nccl" if cuda else "gloo", verbose=False, timeout=PATIENCE)
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    return device


def check_ranks() -> None:
    """Refuse variables of a launcher with which a process would wait for others for ever.

    Raises:
        UserError: RANK, WORLD_SIZE or LOCAL_RANK is no number, there is no such rank, or there are
            several and RANK is missing.
    """
    advice = (
        "Start the script with deepspeed or torchrun, which set these environment variables, or "
        "unset RANK, WORLD_SIZE and LOCAL_RANK to run one process."
    )
    found = {}
    for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        given = os.environ.get(name, default)
        require(given.isdecimal(), f"{name}={given}: expected a whole number. {advice}")
        found[name] = int(given)
    ranks = found["WORLD_SIZE"]
    require(
        ranks < 2 or "RANK" in os.environ,
        f"WORLD_SIZE={ranks}, but RANK is not set: every process would be rank 0. {advice}",
    )
    for name in ("RANK", "LOCAL_RANK"):
        said = f"WORLD_SIZE={ranks}" if "WORLD_SIZE" in os.environ else "WORLD_SIZE is not set"
        require(
            found[name] < max(ranks, 1),
            f"{name}={found[name]}, but {said}: expected a number below the number of ranks. "
            f"{advice}",
        )


def shut_down() -> None:
    """Leave the process group in order (ranks that leave early can abort the others)."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def rank() -> int:
    """This process's rank, 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """The number of ranks, 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is rank 0."""
    return rank() == 0


def is_first_of_node() -> bool:
    """Whether this is the first rank on its machine (who builds what the others read from disk)."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def first_failure(message: str | None) -> str | None:
    """The first failure message of any rank, so that all ranks stop together; None: no failure."""
    return next((m for m in gather_objects(message) if m is not None), None)


def all_reduce(tensor: torch.Tensor, op: str = "sum") -> torch.Tensor:
    """Reduce over ranks in place ("sum", "max" or "min") and return the tensor."""
    if world_size() > 1:
        ops = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}
        dist.all_reduce(tensor, op=ops[op])
    return tensor


def sum_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """Element-wise float64 sums over ranks: one collective for all of them."""
    return all_reduce(torch.tensor(values, dtype=torch.float64, device=device)).tolist()


def union_over_ranks(ids: torch.Tensor, size: int) -> torch.Tensor:
    """The sorted union over ranks of ids in [0, size)."""
    if world_size() == 1:
        return ids
    member = torch.zeros(size, dtype=torch.int32, device=ids.device)
    member[ids] = 1
    return all_reduce(member, "max").nonzero().squeeze(1)


def broadcast_object(value: Any) -> Any:
    """Rank 0's value on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: Any) -> list[Any]:
    """Every rank's value, in the order of the ranks, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_shares(share: list[Any]) -> list[Any]:
    """All items, in order, of a list of which each rank has items[rank::world_size]."""
    shares = gather_objects(share)
    whole = [None] * sum(map(len, shares))
    for i, part in enumerate(shares):
        whole[i :: len(shares)] = part
    return whole


def log_main(message: str) -> None:
    """Print on rank 0 only, past a progress bar; see `printable`."""
    if is_main():
        from tqdm import tqdm

        tqdm.write(printable(message))


@contextlib.contextmanager
def on_all_ranks() -> Iterator[None]:
    """A failure inside on one rank is raised on all of them; all must enter.

    Raises:
        UserError: on the other ranks, with the first failure's message.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    message = first_failure(None if failure is None else str(failure))
    if failure is not None:
        raise failure
    if message is not None:
        raise UserError(message)
