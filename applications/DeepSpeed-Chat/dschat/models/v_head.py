"""Recognise DeepSpeed-Chat's own reward checkpoints, which are no Hugging Face classifiers.

They are a pytorch_model.bin whose weights are named rwtransformer.* (in older versions
rwtranrsformer.*) for the model's body and v_head.weight for the linear layer that scores.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from dschat.errors import UserError

WEIGHTS_FILE = "pytorch_model.bin"
HEAD = "v_head.weight"
LOADING_ERRORS = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    pickle.UnpicklingError,
    SafetensorError,
)
COMMAND = "python -m dschat.models.convert_reward_model"


def read_weights(path: Path) -> dict[str, Any]:
    """The tensors of a .bin file by name; nothing in the file is executed.

    They stay on disk until they are used, where the file's format allows it.

    Raises:
        UserError: it holds something else than tensors, or is damaged.
    """
    try:
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format of torch before 1.6 cannot be mapped
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except LOADING_ERRORS as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} cannot be read as a file of weights: {reason}") from error
    if not isinstance(weights, dict):
        raise UserError(f"{path} holds a {type(weights).__name__}; expected tensors by name.")
    return weights


def is_v_head(names: Iterable[str]) -> bool:
    """Whether these names of weights are those of a DeepSpeed-Chat reward model."""
    return HEAD in names


def check_not_v_head(path: str, flag: str) -> None:
    """Refuse a folder in DeepSpeed-Chat's own format.

    Args:
        path: folder or hub name. flag: the flag that gave it, for the message.

    Raises:
        UserError: names the command that converts it.
    """
    file = Path(path) / WEIGHTS_FILE
    if not file.is_file() or any(Path(path).glob("*.safetensors")):
        return
    if is_v_head(read_weights(file)):
        raise UserError(
            f"--{flag} {path} is a reward model in DeepSpeed-Chat's own format ({HEAD} in "
            f"{WEIGHTS_FILE}). Convert it once:\n    {COMMAND} {path} {path.rstrip('/')}-converted"
            f"\nand give --{flag} {path.rstrip('/')}-converted."
        )
