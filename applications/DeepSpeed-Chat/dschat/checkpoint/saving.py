"""Step 3's checkpoints: several plain model folders that appear together or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dschat.checkpoint.ema import MovingAverage
from dschat.checkpoint.model_folder import gathered_state_dict, write_model
from dschat.errors import UserError
from dschat.runtime import distributed
from dschat.runtime.distributed import on_all_ranks
from dschat.runtime.files import atomic_directory


def save_step(
    output_dir: str,
    step: int,
    models: dict[str, Any],
    tokenizer: Any,
    average: MovingAverage | None = None,
) -> Path:
    """Write output_dir/step-N/{actor,critic}: model folders that load anywhere.

    Everything is written to a temporary folder that gets its final name when it is complete. All
    ranks call this; rank 0 writes, and all ranks learn of a failure. LoRA adapters are merged.

    Args:
        models: folder name -> plain transformers model or `PeftModel`, inside an engine or not.
        average: of the actor's weights, written to `actor_ema`.

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
        if distributed.is_main():
            with atomic_directory(final) as folder:
                for name, model in models.items():
                    write_model(model, states[name], tokenizer, folder / name)
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
