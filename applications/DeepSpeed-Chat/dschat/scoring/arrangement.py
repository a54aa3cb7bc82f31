"""Which rows share a micro-batch: rows of like length, so that little of it is padding.

Which responses meet in an optimizer step is given. How they are cut into micro-batches within it
changes their sum by rounding only, and how many positions go through the models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from dschat.rollout.experience import Experience, Rollout

PER_TOKEN = (
    "logprobs",
    "reference_logprobs",
    "values",
    "token_penalty",
    "divergence",
    "entropy",
    "advantages",
    "returns",
    "candidates",
    "candidate_logprobs",
)
"""What an `Experience` holds as [B, T] or [B, T, k]."""


def row_lengths(rollouts: Sequence[Rollout]) -> list[tuple[int, int]]:
    """Tokens of prompt and response of each row, the micro-batches' rows one after the other."""
    found: list[tuple[int, int]] = []
    for r in rollouts:
        width = r.input_ids.shape[1] - r.response_mask.shape[1]
        both = [part.sum(dim=1).tolist() for part in r.attention_mask.tensor_split([width], dim=1)]
        found += zip(*both, strict=True)
    return found


def positions(lengths: Sequence[tuple[int, int]], batch: Sequence[int]) -> int:
    """Positions of a micro-batch of these rows, its padding included."""
    return len(batch) * sum(max(lengths[row][part] for row in batch) for part in (0, 1))


def like_lengths(
    lengths: Sequence[tuple[int, int]],
    groups: Sequence[int],
    rows: Sequence[int],
    size: int,
) -> list[list[int]]:
    """Rows cut into micro-batches, those of like length together.

    Rows of a group stay neighbours, so that they share their prompt. Prompts are padded to
    the longest one of the micro-batch and responses likewise: rows are sorted by prompt, cut into k
    runs and sorted by response within each. All k that give runs of whole micro-batches are tried,
    from 1 (by response alone) to one run a micro-batch (by prompt alone), and what has the fewest
    positions is taken. Rows stay as they came where nothing has fewer.

    Args:
        lengths: of all rows, see `row_lengths`. groups: which rows have one prompt.
        rows: the numbers of those to be arranged.
        size: rows of a micro-batch; divides them.
    """
    longest: dict[int, int] = {}
    for row in rows:
        longest[groups[row]] = max(longest.get(groups[row], 0), lengths[row][1])

    def by_prompt(row: int) -> tuple[int, ...]:
        return -lengths[row][0], -longest[groups[row]], groups[row], -lengths[row][1]

    def by_response(row: int) -> tuple[int, ...]:
        return -longest[groups[row]], -lengths[row][0], groups[row], -lengths[row][1]

    count = len(rows) // size
    found = [_cut(rows, size)]
    for runs in range(1, count + 1):
        if count % runs == 0:
            parts = _cut(sorted(rows, key=by_prompt), len(rows) // runs)
            order = [row for part in parts for row in sorted(part, key=by_response)]
            found.append(_cut(order, size))
    return min(found, key=lambda batches: sum(positions(lengths, batch) for batch in batches))


def _cut(rows: Sequence[int], size: int) -> list[list[int]]:
    return [list(rows[i : i + size]) for i in range(0, len(rows), size)]


def by_length(rollouts: Sequence[Rollout], group_size: int, pad_token_id: int) -> list[Rollout]:
    """The rows of these micro-batches of equal size in as many others, see `like_lengths`."""
    size = len(rollouts[0].prompts)
    groups = group_numbers(rollouts, group_size)
    rows = range(len(groups))
    batches = like_lengths(row_lengths(rollouts), groups, rows, size)
    if [row for batch in batches for row in batch] == list(rows):
        return list(rollouts)
    return regrouped_rollouts(rollouts, batches, pad_token_id)


def steps_by_length(
    rollouts: Sequence[Rollout], first: int, step: int, group_size: int, pad_token_id: int
) -> list[Rollout]:
    """A generation batch with rows of like length together, within each optimizer step.

    Args:
        first: number of the first micro-batch among this rank's of the iteration.
        step: micro-batches in an optimizer step.
    """
    numbered = groupby(enumerate(rollouts, first), lambda pair: pair[0] // step)
    steps = [[rollout for _, rollout in members] for _, members in numbered]
    return [r for members in steps for r in by_length(members, group_size, pad_token_id)]


def group_numbers(rollouts: Sequence[Rollout], group_size: int) -> list[int]:
    """The group of each row."""
    return [index // group_size for r in rollouts for index in r.indices.tolist()]


def regrouped_rollouts(
    rollouts: Sequence[Rollout], batches: Sequence[Sequence[int]], pad_token_id: int
) -> list[Rollout]:
    """Micro-batches of the named rows, each padded to its own longest prompt and response.

    Args:
        rollouts: their rows count from 0 through all of them.
    """
    lengths = row_lengths(rollouts)
    widths = [r.response_mask.shape[1] for r in rollouts]
    prompts = [r.input_ids.shape[1] - t for r, t in zip(rollouts, widths, strict=True)]
    before, after = max(prompts), max(widths)

    def together(tensors: Sequence[Tensor], value: int) -> Tensor:
        filled = [
            pad(x, (before - p, after - t), value=value)
            for x, p, t in zip(tensors, prompts, widths, strict=True)
        ]
        return torch.cat(filled)

    ids = together([r.input_ids for r in rollouts], pad_token_id)
    attention = together([r.attention_mask for r in rollouts], 0)
    mask = _stacked([r.response_mask for r in rollouts], after)
    told = [r.behaviour_logprobs for r in rollouts if r.behaviour_logprobs is not None]
    behaviour = _stacked(told, after) if told else None
    ended, dropped, indices = (
        torch.cat([getattr(r, name) for r in rollouts]) for name in ("ended", "dropped", "indices")
    )
    texts = [text for r in rollouts for text in zip(r.prompts, r.responses, strict=True)]
    examples = [example for r in rollouts for example in r.examples]
    states = [rows for r in rollouts if r.states is not None for rows in _states_of_rows(r)]
    found = []
    for batch in batches:
        rows = torch.tensor(batch, device=ids.device)
        prompt = max(lengths[row][0] for row in batch)
        response = max(1, *(lengths[row][1] for row in batch))
        columns = slice(before - prompt, before + response)
        found.append(
            Rollout(
                input_ids=ids[rows, columns],
                attention_mask=attention[rows, columns],
                response_mask=mask[rows, :response],
                ended=ended[rows],
                dropped=dropped[rows],
                prompts=[texts[row][0] for row in batch],
                responses=[texts[row][1] for row in batch],
                examples=[examples[row] for row in batch],
                indices=indices[rows],
                states=torch.cat([states[row] for row in batch]) if states else None,
                behaviour_logprobs=None if behaviour is None else behaviour[rows, :response],
            )
        )
    return found


def _states_of_rows(rollout: Rollout) -> tuple[Tensor, ...]:
    """Per row the states [length, H] before its tokens."""
    assert rollout.states is not None
    return rollout.states.split(rollout.response_mask.sum(dim=1).tolist())


def regrouped(
    experiences: Sequence[Experience], batches: Sequence[Sequence[int]], pad_token_id: int
) -> list[Experience]:
    """The same of experiences; the references' samples go with the responses of their index."""
    rollouts = regrouped_rollouts([e.rollout for e in experiences], batches, pad_token_id)
    width = max(e.rollout.response_mask.shape[1] for e in experiences)
    tensors = {
        name: _stacked([getattr(e, name) for e in experiences], width)
        for name in PER_TOKEN
        if getattr(experiences[0], name) is not None
    }
    scores = torch.cat([e.scores for e in experiences])
    found = []
    for batch, rollout in zip(batches, rollouts, strict=True):
        rows, length = torch.tensor(batch, device=scores.device), rollout.response_mask.shape[1]
        cut: dict[str, Any] = {name: x[rows, :length] for name, x in tensors.items()}
        e = replace(experiences[0], rollout=rollout, scores=scores[rows], **cut)
        found.append(_with_samples_of(e, experiences, pad_token_id))
    return found


def _with_samples_of(
    experience: Experience, experiences: Sequence[Experience], pad_token_id: int
) -> Experience:
    """The experience with those samples that belong to its indices."""
    if experience.sample_weights is None:
        return experience
    given = [e.samples for e in experiences if e.samples is not None]
    weights = torch.cat([e.sample_weights for e in experiences if e.sample_weights is not None])
    numbers = {index: i for i, index in enumerate(p for r in given for p in r.indices.tolist())}
    chosen = [numbers[p] for p in experience.rollout.indices.tolist() if p in numbers]
    samples = regrouped_rollouts(given, [chosen], pad_token_id)[0] if chosen else None
    return replace(experience, samples=samples, sample_weights=weights[chosen])


def _stacked(tensors: Sequence[Tensor], width: int) -> Tensor:
    """[B, T] or [B, T, k] tensors one above the other, filled up with 0 to `width` columns."""
    return torch.cat([pad(x, (*(0, 0) * (x.dim() - 2), 0, width - x.shape[1])) for x in tensors])
