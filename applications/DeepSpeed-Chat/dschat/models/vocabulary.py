"""The width of a model's output layer: its rows beyond the tokenizer's tokens are padding."""

from __future__ import annotations

from typing import Any


def tokens_of(tokenizer: Any) -> int:
    """How many ids the tokenizer has a token for, that is, its largest id and one.

    No text has a token beyond: it is never sampled, whatever its logit, and no probability
    counts it. (Kept with the tokenizer, as making the dictionary takes time.)
    """
    size = len(tokenizer)
    kept = getattr(tokenizer, "_dschat_tokens", (0, 0))
    if kept[0] != size:
        kept = (size, max(tokenizer.get_vocab().values()) + 1)
        tokenizer._dschat_tokens = kept
    return int(kept[1])


def cut_vocabulary(model: Any, width: int) -> Any:
    """The model without the padding rows beyond `width`; also where ZeRO 3 has partitioned it."""
    weight = model.get_input_embeddings().weight
    if getattr(weight, "ds_shape", weight.shape)[0] > width:
        model.resize_token_embeddings(width)
    return model
