"""Writing a model in training as a plain Hugging Face folder, whatever ZeRO stage it is in."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from dschat.checkpoint.model_card import MARK, Extras
from dschat.errors import UserError
from dschat.models.loading import set_generation_ends
from dschat.models.lora import merged_state_dict, save_adapter
from dschat.models.score_reading import as_reward_model
from dschat.models.zero3 import whole_parameters
from dschat.runtime.distributed import is_main, on_all_ranks
from dschat.runtime.files import (
    atomic_directory,
    explain_write_errors,
    give_ordinary_permissions,
    temporary_sibling,
)

CARD, ADAPTER_FOLDER = "README.md", "adapter"
WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*")


@torch.no_grad()
def gathered_state_dict(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The whole weights on CPU at rank 0, an empty dictionary elsewhere; all ranks must call it.

    Tied weights appear once. One parameter at a time is gathered, so that no GPU holds the model
    twice.
    """
    state: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        with whole_parameters([parameter]):
            if is_main():
                value = parameter.detach().cpu()
                # What ZeRO 3 gathers is freed when the block ends.
                state[name] = value.clone() if hasattr(parameter, "ds_id") else value
    if is_main():
        saved = model.state_dict().keys()
        state |= {n: b.detach().cpu() for n, b in model.named_buffers() if n in saved}
    return state


def write_model(
    model: Any,
    state: dict[str, torch.Tensor],
    tokenizer: Any,
    folder: str | Path,
    extras: Extras | None = None,
    role: str = "",
) -> None:
    """Write a model folder from gathered weights (rank 0); LoRA adapters are merged.

    A reward model's (or critic's) padding token is never its end token; see `score_reading`.

    Args:
        extras: the run's, for README.md and the folder adapter; None: neither is written.
        role: of the model in the run.
    """
    from peft import PeftModel

    base: Any = model
    if extras is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / CARD).write_text(extras.card(role), encoding="utf-8")
    if isinstance(model, PeftModel):
        if extras is not None and extras.save_adapter:
            save_adapter(model, state, Path(folder) / ADAPTER_FOLDER)
        base, state = model.get_base_model(), merged_state_dict(model, state)
    set_generation_ends(base, tokenizer)
    if "SequenceClassification" in type(base).__name__:
        tokenizer = as_reward_model(base.config, tokenizer)
    base.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)


def check_save(models: Iterable[Any], tokenizer: Any, output_dir: str | Path) -> None:
    """Write folders of models and tokenizer without weights, and remove them; all ranks call it.

    Whatever would stop `write_model` after hours of training stops the run at its start.

    Args:
        models: as for `write_model`.

    Raises:
        UserError: (on all ranks) a model or the tokenizer cannot be saved, or the disk refuses.
    """
    with on_all_ranks():
        if is_main():
            for model in models:
                _save_without_weights(model, tokenizer, Path(output_dir) / "model")


def _save_without_weights(model: Any, tokenizer: Any, path: Path) -> None:
    folder = temporary_sibling(path)
    with explain_write_errors(path):
        try:
            folder.mkdir(parents=True)
            write_model(model, {}, tokenizer, folder)
        except (OSError, UserError):
            raise
        except Exception as error:  # configs, models and tokenizers raise many kinds
            raise UserError(
                f"The trained {type(model).__name__} or its tokenizer could not be saved: {error} "
                "Mend this in the files of the model folder that the run starts from."
            ) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def save_model_folder(
    model: Any,
    tokenizer: Any,
    path: str | Path,
    keep_other_files: bool = False,
    extras: Extras | None = None,
) -> None:
    """Write model and tokenizer to `path`, whole or not at all; all ranks must call it.

    LoRA adapters are merged, so that `AutoModel...from_pretrained(path)` is all it takes to load.

    Args:
        model: a transformers model or a `PeftModel`, not the DeepSpeed engine around it.
        tokenizer: saved beside it.
        path: the folder. An existing one is replaced.
        keep_other_files: put the model's files into the existing folder beside what is there.
        extras: see `write_model`.

    Raises:
        UserError: the disk is full or the folder may not be written to; on all ranks.
    """
    state = gathered_state_dict(model)
    with on_all_ranks():
        if is_main():
            folder = _into_existing(Path(path)) if keep_other_files else atomic_directory(path)
            with folder as temporary:
                write_model(model, state, tokenizer, temporary, extras)


@contextlib.contextmanager
def _into_existing(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; its files move into `path` once the block has succeeded.

    The disk can only fill up before the first of them moves. config.json goes first and comes
    last: without it the folder is not a model, so a crash between leaves none that mixes two.
    """
    with explain_write_errors(path / "model"):
        path.mkdir(parents=True, exist_ok=True)
        temporary = temporary_sibling(path / "model")
        temporary.mkdir()
        try:
            yield temporary
            give_ordinary_permissions(temporary)
            new = sorted(os.listdir(temporary), key=lambda name: name == "config.json")
            (path / "config.json").unlink(missing_ok=True)
            for pattern in WEIGHT_PATTERNS:
                for stale in path.glob(pattern):
                    stale.unlink()
            shutil.rmtree(path / ADAPTER_FOLDER, ignore_errors=True)
            if (path / CARD).is_file() and MARK not in (path / CARD).read_text(errors="replace"):
                new = [name for name in new if name != CARD]  # the user's own
            for name in new:
                os.replace(temporary / name, path / name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def save_step(
    output_dir: str,
    step: int,
    models: dict[str, Any],
    tokenizer: Any,
    average: Any = None,
    extras: Extras | None = None,
) -> Path:
    """Write output_dir/step-N/{actor,critic}: model folders that load anywhere.

    Everything is written to a temporary folder that gets its final name when it is complete. All
    ranks call this; rank 0 writes, and all ranks learn of a failure. LoRA adapters are merged.

    Args:
        models: folder name -> plain transformers model or `PeftModel`, inside an engine or not.
        average: `MovingAverage` of the actor's weights, written to `actor_ema`.
        extras: see `write_model`.

    Returns:
        output_dir/step-N.

    Raises:
        UserError: the disk is full or the folder cannot be written to (on all ranks).
    """
    final = Path(output_dir) / f"step-{step}"
    states = {name: gathered_state_dict(model) for name, model in models.items()}
    if average is not None:
        models = {**models, "actor_ema": average.model}
        states["actor_ema"] = average.gathered_state_dict()
    with on_all_ranks():
        if is_main():
            with atomic_directory(final) as folder:
                for name, model in models.items():
                    write_model(model, states[name], tokenizer, folder / name, extras, name)
    return final


def refuse_old_steps(output_dir: str) -> None:
    """Refuse an output folder with checkpoints of another run, which would mix with this one's.

    Raises:
        UserError: names them.
    """
    old = sorted(p.name for p in Path(output_dir).glob("step-*") if p.is_dir())
    if old:
        raise UserError(
            f"--output_dir {output_dir} already holds {', '.join(old[:5])} of another run. Give "
            "another folder, or move these away."
        )
