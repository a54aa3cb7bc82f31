"""Step 3's checkpoints: several plain model folders that appear together or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dschat.errors import UserError
from dschat.models.lora import merged_state_dict
from dschat.training import distributed
from dschat.training.model_folder import gathered_state_dict
from dschat.utils.files import atomic_directory


def save_step(output_dir: str, step: int, models: dict[str, Any], tokenizer: Any) -> Path:
    """Write output_dir/step-N/{actor,critic}: model folders that load anywhere.

    Everything is written to a temporary folder that gets its final name when it is complete. All
    ranks call this; rank 0 writes, and all ranks learn of a failure. LoRA adapters are merged.

    Args:
        models: folder name -> plain transformers model or `PeftModel`, inside an engine or not.

    Returns:
        output_dir/step-N.

    Raises:
        UserError: the disk is full or the folder cannot be written to (on all ranks).
    """
    final = Path(output_dir) / f"step-{step}"
    states = {name: gathered_state_dict(model) for name, model in models.items()}
    failure: str | None = None
    if distributed.is_main():
        try:
            with atomic_directory(final) as folder:
                for name, model in models.items():
                    plain, state = model, states[name]
                    if hasattr(model, "get_base_model"):
                        plain, state = model.get_base_model(), merged_state_dict(model, state)
                    plain.save_pretrained(folder / name, state_dict=state)
                    tokenizer.save_pretrained(folder / name)
        except (UserError, OSError) as error:
            failure = str(error)
    failure = distributed.broadcast_object(failure)
    if failure is not None:
        raise UserError(failure)
    return final
