"""Keys and values of attention that several rows share, or that grow in place.

Both layers stand in for transformers' `DynamicLayer`, which keeps a copy for every row and makes a
new, longer one for every token.

Shared prompts: G responses to one prompt repeat its P tokens G times in a batch. Here the U
distinct prompts go through the model first, and the responses after them, attending to the keys and
values of their prompt: U P + B T tokens instead of B (P + T), with the same states up to rounding,
and gradients that add up in the prompt. Attention itself costs what it did.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

LENGTH_DEPENDENT = {"dynamic", "longrope"}
"""Rotary embeddings whose angles at a position depend on the length of the whole text."""

NEEDED = {"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep"}


def plain_model(model: Any) -> Any:
    """The `AutoModelForCausalLM` itself, without what PEFT puts around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def has_plain_cache(model: Any) -> bool:
    """Whether all layers attend to all earlier positions, with keys and values kept as they are.

    Not so with sliding windows, recurrent layers and position biases, nor where the angles of all
    positions change with the length of the text; those models are left to transformers' own code.
    """
    plain = plain_model(model)
    if any(kind in LENGTH_DEPENDENT for kind in _rope_types(plain.config)):
        return False
    if not NEEDED.issubset(inspect.signature(plain.forward).parameters):
        return False
    layers = DynamicCache(config=plain.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def _rope_types(config: Any) -> set[Any]:
    """All kinds of rotary embedding that a config names, for the whole model or by layer type."""
    found: set[Any] = set()
    pending = [getattr(config, "rope_parameters", None), getattr(config, "rope_scaling", None)]
    while pending:
        settings = pending.pop()
        if isinstance(settings, dict):
            found |= {settings.get("rope_type"), settings.get("type")}
            pending += settings.values()
    return found - {None} if all(isinstance(kind, str) for kind in found - {None}) else {"dynamic"}


class PromptLayer(DynamicLayer):
    """Keys and values of U prompts, handed out to the B rows that continue them.

    The first `update` stores the prompts' [U, heads, P, d]; each later one gets its own
    [B, heads, T, d] and returns [B, heads, P + T, d], which is not kept. Differentiable.
    """

    rows: Tensor | None = None
    """[B] int64, the prompt of each row; None until the prompts are in."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """See the class."""
        if self.rows is None:
            return super().update(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        keys, values = self.keys[self.rows], self.values[self.rows]
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


class GrowingLayer(DynamicLayer):
    """Keys and values with room for tokens to come, [B, heads, room, d].

    Attributes:
        used: positions that are filled.
        limit: the most that there will be.
    """

    def __init__(self, keys: Tensor, values: Tensor, room: int, limit: int) -> None:
        """Start from [B, heads, P, d]."""
        super().__init__()
        self.lazy_initialization(keys, values)
        self.used, self.limit = keys.shape[-2], limit
        self.keys: Tensor = _grown(keys, room)
        self.values: Tensor = _grown(values, room)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new positions behind the others; views of all that are filled."""
        start, self.used = self.used, self.used + key_states.shape[-2]
        room = self.keys.shape[-2]
        if self.used > room:
            # Twice the room each time: what is copied in all stays in proportion to the end.
            room = min(self.limit, max(self.used, 2 * room))
            self.keys, self.values = _grown(self.keys, room), _grown(self.values, room)
        self.keys[:, :, start : self.used] = key_states
        self.values[:, :, start : self.used] = value_states
        return self.keys[:, :, : self.used], self.values[:, :, : self.used]

    def get_seq_length(self) -> int:
        """Positions that are filled."""
        return self.used

    def keep(self, rows: Tensor) -> None:
        """Only these rows [b] go on."""
        self.keys, self.values = self.keys[rows], self.values[rows]


def _grown(x: Tensor, room: int) -> Tensor:
    larger = x.new_empty(*x.shape[:-2], room, x.shape[-1])
    larger[:, :, : x.shape[-2]] = x
    return larger


def prompt_cache(model: Any) -> Cache:
    """An empty cache of `PromptLayer`s for `model`."""
    return Cache(
        layers=[PromptLayer() for _ in DynamicCache(config=plain_model(model).config).layers]
    )


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
    # A masked position may hold anything: -1 is no token.
    prompts = torch.where(attention_mask[:, :width].bool(), input_ids[:, :width], -1)
    unique, rows = torch.unique(prompts, dim=0, return_inverse=True)
    if 2 * len(unique) > batch:
        return None
    # Any row of a prompt stands for it; scatter takes one of them.
    numbers = torch.arange(batch, device=rows.device)
    first = torch.empty(len(unique), dtype=torch.int64, device=rows.device)
    return first.scatter_(0, rows, numbers), rows


@dataclass(frozen=True)
class PromptPlan:
    """How a micro-batch goes through a model.

    Attributes:
        shared: see `shared_prompts`; None: rows go through in full, in one pass.
        second_pass: whether the responses get one after the prompts; if not, the longest response
            is one token, which the prompt alone predicts.
    """

    shared: tuple[Tensor, Tensor] | None = None
    second_pass: bool = True


def plan_prompts(
    body: nn.Module, input_ids: Tensor, attention_mask: Tensor, response_length: int
) -> PromptPlan:
    """Share the prompts where that pays.

    Where ZeRO 3 has partitioned the weights among several ranks, each waits in each layer for all
    others: they share if all of them would, and make the same number of passes. All ranks call
    this.
    """
    shared = shared_prompts(input_ids, attention_mask, response_length)
    second_pass = response_length > 1
    if is_partitioned(body):
        flags = torch.tensor([shared is None, second_pass], dtype=torch.int32)
        flags = flags.to(input_ids.device)
        torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        in_full, second_pass = (bool(flag) for flag in flags.tolist())
        shared = None if in_full else shared
    return PromptPlan(shared, second_pass)


def is_partitioned(body: nn.Module) -> bool:
    """Whether ZeRO 3 has partitioned the weights among several ranks."""
    partitioned = any(hasattr(p, "ds_id") for p in body.parameters())
    return partitioned and torch.distributed.get_world_size() > 1


def recomputes(body: nn.Module) -> bool:
    """Whether layers compute their activations again in the backward pass.

    They do so without the prompts' keys and values.
    """
    return any(getattr(m, "gradient_checkpointing", False) for m in body.modules())


def response_states(
    body: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    position_ids: Tensor,
    response_length: int,
    prompts: Tensor,
    rows: Tensor,
    second_pass: bool = True,
) -> Tensor:
    """[B, T, H]: the state before each response token.

    Args:
        body: the model without its head, whose cache is plain (`has_plain_cache`).
        input_ids, attention_mask, position_ids: [B, P + T].
        prompts, rows: see `shared_prompts`.
        second_pass: see `PromptPlan`; it is made also where no response needs it, so that other
            ranks can make theirs.
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
    if not second_pass:
        return first
    for layer in layers:
        layer.rows = rows
    # The last token predicts nothing; a pass has one token at least.
    stop = max(width + 1, input_ids.shape[1] - 1)
    after = body(
        input_ids=input_ids[:, width:stop],
        attention_mask=attention_mask[:, :stop],
        position_ids=position_ids[:, width:stop],
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return torch.cat([first, after[:, : response_length - 1]], dim=1)
