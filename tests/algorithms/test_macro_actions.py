"""Macro actions: boundaries row by row, and GAE over them against loops over single tokens."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from dschat.algorithms import gae
from dschat.algorithms.macro_actions import (
    RANDOM_LENGTHS,
    fixed_macro_actions,
    macro_actions_of_lengths,
    macro_gae,
    perplexity_macro_actions,
    randomized_macro_actions,
)
from hypothesis import given, settings
from hypothesis import strategies as st


def batch(seed: int, rows: int = 4, length: int = 12) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, length + 1, (rows,), generator=generator)
    mask = torch.arange(length).unsqueeze(0) < lengths.unsqueeze(1)
    draw = [torch.randn(rows, length, generator=generator) for _ in range(3)]
    for each in draw:
        each[~mask] = math.nan  # nothing of it may be read
    return {"mask": mask, "rewards": draw[0], "values": draw[1], "logprobs": -draw[2].abs()}


def runs(ids: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    """Lengths of each row's macro actions."""
    return [
        torch.unique_consecutive(i[m], return_counts=True)[1].tolist()
        for i, m in zip(ids, mask, strict=True)
    ]


def by_hand(b, ids, gamma: float, lam: float, value_function: str):
    """Advantage and return of every token, by lists."""
    shape = b["mask"].shape
    advantages, returns = torch.zeros(shape), torch.zeros(shape)
    for row in range(shape[0]):
        groups: list[list[int]] = []
        for t in range(int(b["mask"][row].sum())):
            if t == 0 or ids[row, t] != ids[row, t - 1]:
                groups.append([])
            groups[-1].append(t)
        values = []
        for group in groups:
            v = [float(b["values"][row, t]) for t in group]
            if value_function == "equal":
                values.append(sum(v) / len(v))
            elif value_function == "unit":
                values.append(v[-1])
            elif value_function == "first":
                values.append(v[0])
            else:
                w = [1 / (i + 1) for i in range(len(v))]
                values.append(sum(a * c for a, c in zip(v, w, strict=True)) / sum(w))
        running = 0.0
        for k in reversed(range(len(groups))):
            following = values[k + 1] if k + 1 < len(groups) else 0.0
            reward = sum(float(b["rewards"][row, t]) for t in groups[k])
            running = reward + gamma * following - values[k] + gamma * lam * running
            for t in groups[k]:
                advantages[row, t], returns[row, t] = running, running + values[k]
    return advantages, returns


@pytest.mark.parametrize("value_function", ["equal", "unit", "position", "first"])
def test_one_token_each_is_plain_ppo_exactly(value_function: str) -> None:
    b = batch(0)
    ids = fixed_macro_actions(b["mask"], 1)
    found = macro_gae(b["rewards"], b["values"], b["mask"], ids, 0.9, 0.8, value_function)
    for ours, plain in zip(found, gae(b["rewards"], b["values"], b["mask"], 0.9, 0.8), strict=True):
        assert torch.equal(ours, plain)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["fixed", "randomized", "ppl"]),
    value_function=st.sampled_from(["equal", "unit", "position", "first"]),
    gamma=st.floats(0, 1),
    lam=st.floats(0, 1),
)
def test_gae_over_macro_actions_token_by_token(
    seed: int, kind: str, value_function: str, gamma: float, lam: float
) -> None:
    b = batch(seed)
    if kind == "fixed":
        ids = fixed_macro_actions(b["mask"], 1 + seed % 5)
    elif kind == "randomized":
        ids = randomized_macro_actions(b["mask"], 1, range(seed, seed + 4))
    else:
        ids = perplexity_macro_actions(b["mask"], b["logprobs"])
    found = macro_gae(b["rewards"], b["values"], b["mask"], ids, gamma, lam, value_function)
    expected = by_hand(b, ids, gamma, lam, value_function)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_fixed_lengths() -> None:
    mask = torch.tensor([[True] * 7, [True] * 3 + [False] * 4])
    assert runs(fixed_macro_actions(mask, 3), mask) == [[3, 3, 1], [3]]


def test_randomized_lengths_are_the_list_and_then_one_for_the_rest() -> None:
    mask = torch.ones(5, 100, dtype=torch.bool)
    found = runs(randomized_macro_actions(mask, 2, [1, 2, 3, 4, 1]), mask)
    for lengths in found:
        assert sorted(lengths[:-1]) == sorted(RANDOM_LENGTHS * 2)
        assert lengths[-1] == 100 - 2 * sum(RANDOM_LENGTHS)
    assert found[0] == found[4] != found[1]


def published_ppl_lengths(perplexities: list[float]) -> list[int]:
    """What the published code makes of one unpadded response's perplexities, token by token.

    Its boundaries are positions of a list of actions: the first; each at which the *next* token's
    perplexity is higher; and the last.
    """
    last = len(perplexities) - 1
    places = {0, last} | {i for i in range(last) if perplexities[i + 1] > perplexities[i]}
    bounds = [*sorted(places), last + 1]
    return [b - a for a, b in itertools.pairwise(bounds)]


def test_perplexity_compares_neighbouring_tokens_as_published() -> None:
    logprobs = torch.log(torch.tensor([[0.5, 0.5, 0.9, 0.1, 0.4, 0.05, 0.9]]))
    mask = torch.ones(1, 7, dtype=torch.bool)
    # Perplexities 2, 2, 1.1, 10, 2.5, 20, 1.1: they rise after the third and the fifth token.
    assert runs(perplexity_macro_actions(mask, logprobs), mask) == [[2, 2, 2, 1]]
    falling = logprobs.sort()[0]
    assert runs(perplexity_macro_actions(mask, falling), mask) == [[6, 1]]


@given(st.integers(0, 10_000))
def test_perplexity_boundaries_are_the_published_ones_of_each_row(seed: int) -> None:
    b = batch(seed)
    found = runs(perplexity_macro_actions(b["mask"], b["logprobs"]), b["mask"])
    for lengths, row, mask in zip(found, b["logprobs"], b["mask"], strict=True):
        expected = published_ppl_lengths((-row[mask]).exp().tolist()) if mask.any() else []
        assert lengths == expected


def test_given_lengths() -> None:
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [False] * 5])
    ids = macro_actions_of_lengths(mask, [[2, 3], [1, 1], []])
    assert runs(ids, mask) == [[2, 3], [1, 1], []]
    with pytest.raises(ValueError, match="of .4, 2, 0. tokens for rows of .5, 2, 0."):
        macro_actions_of_lengths(mask, [[2, 2], [2], []])


def test_unusable_settings_are_refused() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="ngram = 0"):
        fixed_macro_actions(mask, 0)
    with pytest.raises(ValueError, match="a seed per row"):
        randomized_macro_actions(mask, 1, [0])
    zero = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="equal, unit, position, first"):
        macro_gae(zero, zero, mask, fixed_macro_actions(mask, 1), 1.0, 1.0, "mean")
