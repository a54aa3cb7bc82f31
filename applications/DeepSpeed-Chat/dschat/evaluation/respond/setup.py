"""Where a run takes place, and the policy's tokenizer."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import AutoTokenizer

from dschat.models.loading import load_pretrained, load_tokenizer
from dschat.runtime.distributed import check_ranks, init_distributed, is_main
from dschat.settings.command_line import require


def quiet_libraries() -> None:
    """No progress bars but our own."""
    import datasets
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    if not is_main():
        datasets.disable_progress_bars()
        transformers_logging.set_verbosity_error()


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


def policy_tokenizer(path: str, end_token: str | None) -> Any:
    """The policy's tokenizer with its end token; see `load_tokenizer`.

    Where it has no padding token another one pads: padding is masked.
    """
    plain = load_pretrained(AutoTokenizer, path, "model")
    pad = None if plain.pad_token else plain.unk_token or end_token or plain.eos_token
    return load_tokenizer(path, "model", end_token, pad_token=pad)
