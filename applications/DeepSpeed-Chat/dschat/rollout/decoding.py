"""Token by token through a model, for models whose attention keeps plain keys and values.

Against transformers' `generate`: a prompt that several rows share goes through the model once,
prompts of like length go through it together, keys and values grow in place, and rows that have
ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from dschat.data.ends import EndIds, end_ids
from dschat.data.stop_texts import StopTexts, StopWatch
from dschat.models.key_values import GrowingLayer, plain_model, prompt_cache
from dschat.models.output_layer import OutputLayer
from dschat.models.policy import backbone
from dschat.rollout.sampled_states import SampledStates

_Pass = tuple[list[int], list[Any]]
"""Numbers of the prompts in a pass, and their keys and values by layer."""

FIRST_ROOM = 64
"""Tokens of a response for which there is room at first."""

LEAVE_AT = 8
"""Ended rows leave the batch as soon as they are one row in LEAVE_AT."""

PADDING_WORTH_A_PASS = 0.2
"""Share of padding in a prefill above which a part of the prompts gets a pass of its own."""


def decode(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    pick: Callable[[Tensor, Tensor, int], Tensor],
    max_new_tokens: int,
    ends: EndIds,
    kept: SampledStates | None = None,
    stops: StopTexts | None = None,
) -> list[list[int]]:
    """Continue each prompt until it ends or the limit is reached.

    Args:
        model: an `AutoModelForCausalLM` in eval mode with a plain cache (`has_plain_cache`).
        input_ids, attention_mask: [B, P], left-padded.
        pick: (logits [b, V] of some rows, their numbers [b], step) -> token ids [b].
        ends: the token or tokens that end a response.
        kept: takes the state before each token; `model` then has a head that `OutputLayer` knows.
        stops: texts that end a response.

    Returns:
        B lists of response ids, the end token included where the response ended by itself.
    """
    watch = None if stops is None else StopWatch(stops, len(input_ids))
    batch, width = input_ids.shape
    device = input_ids.device
    limit = width + max_new_tokens
    plain = plain_model(model)
    forward = _logits_only if kept is None else _logits_and_states
    (logits, states), layers, position = _prefill(plain, input_ids, attention_mask, limit, forward)
    cache = Cache(layers=list(layers))
    padded = not bool(attention_mask.all())
    mask = torch.nn.functional.pad(attention_mask, (0, max_new_tokens), value=1)
    response = torch.empty(batch, max_new_tokens, dtype=torch.int64, device=device)
    length = torch.full((batch,), max_new_tokens, device=device)
    rows = torch.arange(batch, device=device)
    closing = torch.tensor(end_ids(ends), device=device)
    going = torch.ones(batch, dtype=torch.bool, device=device)
    for step in range(max_new_tokens):
        if kept is not None:
            assert states is not None
            kept.note(states, rows, step)
        tokens = pick(logits, rows, step)
        response[rows, step] = tokens
        over = torch.isin(tokens, closing)
        if watch is not None:
            over |= torch.tensor(watch.over(rows.tolist(), tokens.tolist()), device=device)
        over &= going
        length[rows[over]] = step + 1
        going &= ~over
        left = int(going.sum())
        if left == 0 or step + 1 == max_new_tokens:
            break
        if (len(rows) - left) * LEAVE_AT >= len(rows):
            staying = going.nonzero().squeeze(1)
            rows, tokens, mask = rows[staying], tokens[staying], mask[staying]
            position, going = position[staying], going[staying]
            for layer in layers:
                layer.keep(staying)
        position = position + 1
        logits, states = forward(
            plain,
            input_ids=tokens.unsqueeze(1),
            attention_mask=mask[:, : width + step + 1] if padded else None,
            position_ids=position.unsqueeze(1),
            past_key_values=cache,
            use_cache=True,
        )
    return [r[:n] for r, n in zip(response.tolist(), length.tolist(), strict=True)]


def _logits_only(model: Any, **inputs: Any) -> tuple[Tensor, Tensor | None]:
    """[b, V] logits after each row."""
    return model(**inputs, logits_to_keep=1).logits[:, -1], None


def _logits_and_states(model: Any, **inputs: Any) -> tuple[Tensor, Tensor | None]:
    """The same, and the states [b, H] that they are made from."""
    states = backbone(model)(**inputs).last_hidden_state[:, -1]
    return OutputLayer.of(model).logits(states), states


def _prefill(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    limit: int,
    forward: Callable[..., tuple[Tensor, Tensor | None]],
) -> tuple[tuple[Tensor, Tensor | None], list[GrowingLayer], Tensor]:
    """The prompts through the model, each distinct one once.

    Returns:
        The logits [B, V] after each prompt and, from some `forward`, the states [B, H]; keys and
        values for B rows with all prompts ending at the same column; and the position [B] of each
        prompt's last token.
    """
    width = input_ids.shape[1]
    # A masked position may hold anything: -1 is no token.
    marked = torch.where(attention_mask.bool(), input_ids, -1)
    unique, rows = torch.unique(marked, dim=0, return_inverse=True)
    lengths = (unique >= 0).sum(dim=1)
    found: list[_Pass] = []
    after: list[tuple[Tensor, Tensor | None]] = []
    for members, size in _passes(lengths.tolist()):
        part = unique[members, width - size :]
        mask = (part >= 0).long()
        cache = prompt_cache(model)
        last = forward(
            model,
            input_ids=part.clamp(min=0),
            attention_mask=None if bool(mask.all()) else mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        )
        after.append(last)
        found.append((members, list(cache.layers)))
    layers = []
    for i in range(len(found[0][1])):
        parts = [(members, kept[i].keys, kept[i].values) for members, kept in found]
        keys = _aligned([(m, k) for m, k, _ in parts], len(unique), width)[rows]
        values = _aligned([(m, v) for m, _, v in parts], len(unique), width)[rows]
        layers.append(GrowingLayer(keys, values, min(limit, width + FIRST_ROOM), limit))
        for _, kept in found:
            kept[i] = None  # frees what has been copied
    # The passes' rows one after the other, and where each prompt is among them.
    order = torch.tensor([i for members, _ in found for i in members], device=rows.device)
    places = order.argsort()[rows]
    logits, states = zip(*after, strict=True)
    all_states = None if states[0] is None else torch.cat(states)[places]
    return (torch.cat(logits)[places], all_states), layers, (lengths - 1)[rows]


def _passes(lengths: Sequence[int]) -> list[tuple[list[int], int]]:
    """Prompts by length in as few passes as leave little padding: (members, width) of each."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    passes: list[tuple[list[int], int]] = []
    members: list[int] = []
    tokens = 0
    for i in order:
        # All of the pass would be padded to this one.
        if members and (len(members) + 1) * lengths[i] * (1 - PADDING_WORTH_A_PASS) > (
            tokens + lengths[i]
        ):
            passes.append((members, lengths[members[-1]]))
            members, tokens = [], 0
        members.append(i)
        tokens += lengths[i]
    return [*passes, (members, lengths[members[-1]])]


def _aligned(parts: list[tuple[list[int], Tensor]], prompts: int, width: int) -> Tensor:
    """[U, heads, P, d] keys or values of a layer from all passes, at the right; 0 before them."""
    first = parts[0][1]
    result = first.new_zeros(prompts, first.shape[1], width, first.shape[-1])
    for members, part in parts:
        result[members, :, width - part.shape[-2] :] = part
    return result
