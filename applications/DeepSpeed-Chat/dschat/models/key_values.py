"""Keys and values of attention that several rows share, or that grow in place.

Both layers stand in for transformers' `DynamicLayer`, which keeps a copy for every row and makes a
new, longer one for every token.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
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
