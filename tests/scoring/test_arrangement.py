"""Rows of like length in one micro-batch: fewest positions, groups whole, nothing lost."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from dschat.rollout.experience import Experience, Rollout, make_rollout
from dschat.rollout.reference_samples import samples_of
from dschat.scoring.arrangement import (
    by_length,
    like_lengths,
    positions,
    regrouped,
    row_lengths,
)

PAD, END = 0, 1
Rows = list[tuple[list[int], list[int]]]


def rows_of(lengths: list[tuple[int, int]]) -> Rows:
    """Prompts and responses of these lengths; no two rows have a token in common."""
    return [
        ([1000 * i + 10 + j for j in range(p)], [1000 * i + 500 + j for j in range(t - 1)] + [END])
        for i, (p, t) in enumerate(lengths)
    ]


def rollout(rows: Rows, places: list[int]) -> Rollout:
    prompts, responses = [p for p, _ in rows], [t for _, t in rows]
    names = [str(place) for place in places]
    examples: list[dict[str, Any]] = [{"place": place} for place in places]
    texts = [f"r{name}" for name in names]
    device = torch.device("cpu")
    return make_rollout(prompts, responses, names, texts, examples, END, PAD, device, places)


def micro_batches(rows: Rows, batches: list[list[int]]) -> list[Rollout]:
    return [rollout([rows[i] for i in batch], batch) for batch in batches]


def cost(lengths: list[tuple[int, int]], batches: list[list[int]]) -> int:
    """Positions, counted anew."""
    return sum(
        len(b) * (max(lengths[i][0] for i in b) + max(lengths[i][1] for i in b)) for b in batches
    )


def fewest(lengths: list[tuple[int, int]], size: int) -> int:
    """By enumeration of all ways to cut the rows."""
    every = itertools.permutations(range(len(lengths)))
    return min(
        cost(lengths, [list(o[i : i + size]) for i in range(0, len(o), size)]) for o in every
    )


@pytest.mark.parametrize("varies", [0, 1])
def test_the_fewest_positions_where_one_of_the_two_lengths_varies(varies: int) -> None:
    draw = random.Random(varies)
    for _ in range(10):
        numbers = [draw.randint(1, 30) for _ in range(6)]
        lengths = [(n, 7) if varies == 0 else (7, n) for n in numbers]
        found = like_lengths(lengths, list(range(6)), range(6), 2)
        assert sorted(i for batch in found for i in batch) == list(range(6))
        assert cost(lengths, found) == fewest(lengths, 2)


def test_never_more_positions_than_before_and_near_the_fewest() -> None:
    draw = random.Random(0)
    before = after = best = 0
    for _ in range(30):
        lengths = [(draw.randint(1, 30), draw.randint(1, 30)) for _ in range(6)]
        given = [[0, 1], [2, 3], [4, 5]]
        found = like_lengths(lengths, list(range(6)), range(6), 2)
        assert cost(lengths, found) == sum(positions(lengths, batch) for batch in found)
        assert cost(lengths, found) <= cost(lengths, given)
        before, after = before + cost(lengths, given), after + cost(lengths, found)
        best += fewest(lengths, 2)
    assert best <= after < 0.5 * (before + best)


def test_groups_stay_whole_where_they_fit() -> None:
    # Four groups of two in micro-batches of four; the shortest and the longest response are one's.
    lengths = [(5, 1), (5, 9), (5, 3), (5, 2), (5, 8), (5, 8), (5, 3), (5, 1)]
    found = like_lengths(lengths, [0, 0, 1, 1, 2, 2, 3, 3], range(8), 4)
    assert found == [[1, 0, 4, 5], [2, 3, 6, 7]]
    # A group of four in micro-batches of two: its long responses together.
    found = like_lengths(lengths, [0, 0, 0, 0, 1, 1, 1, 1], range(8), 2)
    assert [set(batch) for batch in found] == [{1, 2}, {0, 3}, {4, 5}, {6, 7}]
    # Some of the rows only.
    assert like_lengths(lengths, list(range(8)), [0, 1, 6, 4], 2) == [[1, 4], [6, 0]]


def test_equal_lengths_are_left_as_they_are() -> None:
    parts = micro_batches(rows_of([(3, 4)] * 4), [[0, 1], [2, 3]])
    assert [a is b for a, b in zip(by_length(parts, 1, PAD), parts, strict=True)] == [True, True]


def assert_same(found: Rollout, expected: Rollout) -> None:
    for name, value in vars(expected).items():
        other = getattr(found, name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(other, value), name
        else:
            assert other == value, name


def test_rearranged_rows_are_what_they_would_be_if_made_so() -> None:
    lengths = [(2, 6), (7, 1), (3, 2), (7, 6), (1, 3), (6, 2)]
    rows = rows_of(lengths)  # row 1 is an end token alone, which is dropped
    parts = micro_batches(rows, [[0, 1], [2, 3], [4, 5]])
    assert row_lengths(parts) == lengths
    batches = like_lengths(lengths, list(range(6)), range(6), 2)
    assert batches != [[0, 1], [2, 3], [4, 5]]
    expected = micro_batches(rows, batches)
    for found, wanted in zip(by_length(parts, 1, PAD), expected, strict=True):
        assert_same(found, wanted)


def experience(rows: Rows, batch: list[int], samples: list[list[list[int]]]) -> Experience:
    """Every token's number is its token id, so that rows can be told apart anywhere."""
    r = rollout([rows[i] for i in batch], batch)
    numbers = torch.where(r.response_mask, r.actions, 0).float()
    chosen = samples_of(
        [rows[i][0] for i in batch],
        [samples[i] for i in batch],
        batch,
        2,
        END,
        PAD,
        torch.device("cpu"),
    )
    return Experience(
        rollout=r,
        logprobs=numbers,
        reference_logprobs=numbers + 1,
        values=None,
        token_penalty=numbers + 2,
        divergence=numbers + 3,
        scores=torch.tensor(batch).float(),
        advantages=numbers + 4,
        samples=chosen,
        sample_weights=torch.empty(0) if chosen is None else chosen.indices / 10,
    )


def test_rearranged_experience_keeps_what_belongs_to_a_row() -> None:
    lengths = [(2, 6), (2, 2), (3, 2), (3, 6), (4, 3), (4, 5)]
    rows = rows_of(lengths)
    # One sample a prompt, which travels with the first response of its group of two.
    samples = [[[700 + i // 2] * (1 + i)] for i in range(6)]
    given = [experience(rows, batch, samples) for batch in ([0, 1], [2, 3], [4, 5])]
    batches = [[3, 0], [5, 1], [2, 4]]
    for found, batch in zip(regrouped(given, batches, PAD), batches, strict=True):
        wanted = experience(rows, batch, samples)
        assert_same(found.rollout, wanted.rollout)
        mask = wanted.rollout.response_mask
        for name in ("logprobs", "reference_logprobs", "token_penalty", "divergence", "advantages"):
            assert torch.equal(getattr(found, name)[mask], getattr(wanted, name)[mask]), name
        assert found.values is None
        assert found.returns is None
        assert torch.equal(found.scores, wanted.scores)
        assert torch.equal(found.sample_weights, wanted.sample_weights)
        if wanted.samples is None:
            assert found.samples is None
        else:
            assert_same(found.samples, wanted.samples)
