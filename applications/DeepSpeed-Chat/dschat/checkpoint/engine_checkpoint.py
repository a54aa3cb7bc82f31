"""Saving and loading a DeepSpeed engine's whole state, without code from the files being run.

DeepSpeed's own `save_checkpoint` and `load_checkpoint` know what each ZeRO stage keeps: parameters,
fp32 masters, AdamW's moments, the loss scale, the schedule. It reads its files by unpickling
whatever is in them; here they are read with `weights_only=True`, plus the few plain classes of
DeepSpeed that they hold.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from dschat.errors import UserError
from dschat.runtime.distributed import on_all_ranks
from dschat.runtime.files import explain_write_errors

TAG = "state"


def allowed_classes() -> list[Any]:
    """DeepSpeed's classes in its checkpoints; all hold plain values."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]


def load_values(path: str | Path, map_location: Any = None) -> Any:
    """What `torch.save` wrote, if it is tensors and plain values.

    Raises:
        UserError: it holds anything else, which would have to be run.
    """
    try:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"{path} holds more than weights only, and is not loaded: {first} Use a checkpoint "
            "that this toolkit wrote."
        ) from error


def _without_enums(value: Any) -> Any:
    """The same nested dictionaries, lists and tuples, with the values of enumerations in them.

    Python 3.11.0 to 3.11.3 pickle an enumeration's member as a call of `getattr`, which is not
    allowed when the file is read.
    """
    if isinstance(value, Enum):
        return value.value
    if type(value) in (dict, OrderedDict):
        return type(value)((k, _without_enums(v)) for k, v in value.items())
    if type(value) in (list, tuple):
        return type(value)(map(_without_enums, value))
    return value


def checked_files() -> Any:
    """DeepSpeed's file writer that keeps failures for later, and its reader that runs no code.

    A write that fails must not raise on one rank while the others wait for it in a barrier.
    """
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

    class CheckedFiles(TorchCheckpointEngine):  # type: ignore[misc]
        failure: Exception | None = None

        def makedirs(self, path: str, exist_ok: bool = False) -> None:
            try:
                with explain_write_errors(path):
                    super().makedirs(path, exist_ok=exist_ok)
            except Exception as error:
                self.failure = self.failure or error

        def save(self, state_dict: Any, path: str) -> None:
            try:
                with explain_write_errors(path):
                    torch.save(_without_enums(state_dict), path)
            except Exception as error:
                self.failure = self.failure or error

        def load(self, path: str, map_location: Any = None) -> Any:
            with torch.serialization.safe_globals(allowed_classes()):
                return load_values(path, map_location)

    return CheckedFiles()


def save_engine(engine: Any, folder: str | Path) -> None:
    """Write an engine's state into a folder; all ranks must call it.

    Raises:
        UserError: on all ranks: the disk is full or the folder may not be written to.
    """
    files = checked_files()
    before, engine.checkpoint_engine = engine.checkpoint_engine, files
    # DeepSpeed's rank 0 copies programs into the folder, which may fail on a full disk too.
    engine._copy_recovery_script = lambda folder: None
    try:
        engine.save_checkpoint(str(folder), tag=TAG, save_latest=False)
    finally:
        engine.checkpoint_engine = before
        del engine._copy_recovery_script
    with on_all_ranks():
        if files.failure is not None:
            raise files.failure


def load_engine(engine: Any, folder: str | Path) -> None:
    """Put the state in `folder` into a freshly made engine of the same kind; on all ranks.

    Raises:
        UserError: on all ranks: the files do not fit the engine.
    """
    before, engine.checkpoint_engine = engine.checkpoint_engine, checked_files()
    try:
        with on_all_ranks():
            path, _ = engine.load_checkpoint(str(folder), tag=TAG)
            if path is None:
                raise UserError(f"{folder} holds no state of this engine.")
        if hasattr(engine.optimizer, "checkpoint_event_prologue"):
            # ZeRO 3 as new: loading has gathered the small parameters. One that is used outside
            # its module is noticed only where it is not there yet, and the order of use that
            # DeepSpeed records without it is wrong later (a "tracing error").
            engine.optimizer.checkpoint_event_prologue()
    finally:
        engine.checkpoint_engine = before
