"""A model's weights one at a time, as its plain checkpoint has them, in the middle of training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dschat.models.lora import ADAPTER, is_lora, merged_state_dict
from dschat.models.zero3 import whole_parameters


@torch.no_grad()
def whole_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Names and whole tensors of a model, without changing it; tied weights appear once.

    Adapters are added to their weights. What ZeRO 3 has partitioned is gathered one weight at a
    time: all ranks must iterate.

    Args:
        model: a transformers model or a `PeftModel`, not the DeepSpeed engine around it.
    """
    parameters = dict(model.named_parameters())
    for name in parameters:
        if is_lora(name):
            continue
        needed = [name, *_adapters(name, parameters)]
        with whole_parameters([parameters[n] for n in needed]):
            state = {n: parameters[n].detach() for n in needed}
            if len(needed) > 1 or hasattr(model, "peft_config"):
                state = merged_state_dict(model, state)
            ((plain, tensor),) = state.items()
            # What ZeRO 3 gathers is freed when the block ends.
            yield plain, tensor.clone() if hasattr(parameters[name], "ds_id") else tensor


def _adapters(name: str, parameters: dict[str, Any]) -> list[str]:
    """Names of what is to be added to a weight."""
    layer, _, rest = name.partition(".base_layer.")
    names = [f"{layer}.lora_{half}.{ADAPTER}.weight" for half in ("A", "B")]
    return names if rest == "weight" and names[0] in parameters else []
