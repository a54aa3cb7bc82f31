"""Hidden states of responses whose prompts are shared: each distinct prompt goes through once.

G responses to one prompt repeat its P tokens G times in a batch. Here the U distinct prompts go
through the model first, and the responses after them, attending to the keys and values of their
prompt: U P + B T tokens instead of B (P + T), with the same states up to rounding, and gradients
that add up in the prompt. Attention itself costs what it did.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from dschat.models.key_values import PromptLayer


def shared_prompts(
    input_ids: Tensor, attention_mask: Tensor, response_length: int
) -> tuple[Tensor, Tensor] | None:
    """Which rows have one prompt, where that spares at least half of the prompts.

    Args:
        input_ids, attention_mask: [B, P + T].

    Returns:
        Row numbers [U] of the distinct prompts, and [B] which of them each row has; None if U is
        more than half of B.
    """
    batch, width = input_ids.shape[0], input_ids.shape[1] - response_length
    if batch == 1 or width == 0:
        return None
    # A masked place may hold anything: -1 is no token.
    prompts = torch.where(attention_mask[:, :width].bool(), input_ids[:, :width], -1)
    unique, rows = torch.unique(prompts, dim=0, return_inverse=True)
    if 2 * len(unique) > batch:
        return None
    # Any row of a prompt stands for it; scatter takes one of them.
    numbers = torch.arange(batch, device=rows.device)
    first = torch.empty(len(unique), dtype=torch.int64, device=rows.device)
    return first.scatter_(0, rows, numbers), rows


def takes_rows_whole(body: nn.Module) -> bool:
    """Whether the model must see prompt and response of a row in one pass.

    So it is where layers compute their activations again in the backward pass, which they do
    without the prompts' keys and values; and where ZeRO 3 has partitioned the weights among
    several ranks, which would wait for each other for ever if one made two passes for another's
    one.
    """
    if any(getattr(m, "gradient_checkpointing", False) for m in body.modules()):
        return True
    partitioned = any(hasattr(p, "ds_id") for p in body.parameters())
    return partitioned and torch.distributed.get_world_size() > 1


def response_states(
    body: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    position_ids: Tensor,
    response_length: int,
    prompts: Tensor,
    rows: Tensor,
) -> Tensor:
    """[B, T, H]: the state before each response token.

    Args:
        body: the model without its head, whose cache is plain (`has_plain_cache`).
        input_ids, attention_mask, position_ids: [B, P + T].
        prompts, rows: see `shared_prompts`.
    """
    width = input_ids.shape[1] - response_length
    layers = [PromptLayer() for _ in range(body.config.num_hidden_layers)]
    # transformers types layers by the base class.
    shared: list[Any] = list(layers)
    cache = Cache(layers=shared)
    before = body(
        input_ids=input_ids[prompts, :width],
        attention_mask=attention_mask[prompts, :width],
        position_ids=position_ids[prompts, :width],
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[:, -1:]
    first = before[rows]
    if response_length == 1:
        return first
    for layer in layers:
        layer.rows = rows
    # The last token predicts nothing.
    after = body(
        input_ids=input_ids[:, width:-1],
        attention_mask=attention_mask[:, :-1],
        position_ids=position_ids[:, width:-1],
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return torch.cat([first, after], dim=1)
