"""How many tokens a model can read."""

from __future__ import annotations

from typing import Any

from dschat.settings.command_line import require


def check_context(model_config: Any, tokens: int, flags: str) -> None:
    """Refuse texts of more tokens than the model has positions for.

    Models with learnt positions would fail in the middle of training (on a GPU with an assertion
    that names nothing); those with rotary ones were never trained so far out.

    Args:
        model_config: a transformers config; without `max_position_embeddings` there is no limit.
        tokens: the longest text that can come.
        flags: what decides it, for the message: "--a 2 + --b 3", or one flag.

    Raises:
        UserError: says both numbers.
    """
    limit = getattr(model_config, "max_position_embeddings", None)
    require(
        limit is None or tokens <= limit,
        f"{flags}: texts of up to {tokens} tokens, but the model's context is {limit}. Lower "
        f"{'one of the two' if '+' in flags else 'it'}.",
    )
