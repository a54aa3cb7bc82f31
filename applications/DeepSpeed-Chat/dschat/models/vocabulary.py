"""The width of a model's output layer."""

from __future__ import annotations

from typing import Any


def cut_vocabulary(model: Any, width: int) -> Any:
    """The model without the padding rows beyond `width`; also where ZeRO 3 has partitioned it."""
    weight = model.get_input_embeddings().weight
    if getattr(weight, "ds_shape", weight.shape)[0] > width:
        model.resize_token_embeddings(width)
    return model
