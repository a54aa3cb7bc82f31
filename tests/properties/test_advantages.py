"""Advantages: what must hold for any rewards, values, lengths and groups."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from dschat.algorithms import gae, penalty_to_go
from dschat.algorithms.advantages import STD_FLOOR, group_centred, group_std
from dschat.algorithms.macro_actions import (
    RANDOM_LENGTHS,
    VALUE_FUNCTIONS,
    fixed_macro_actions,
    macro_gae,
    perplexity_macro_actions,
    randomized_macro_actions,
)
from hypothesis import given
from hypothesis import strategies as st
from property_settings import checked
from tensor_strategies import PROBABILITIES, WORST, Responses, by_scores, groups, responses

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@checked
@given(responses(), PROBABILITIES, PROBABILITIES)
def test_gae_is_a_double_sum_over_what_follows(b: Responses, gamma: float, lam: float) -> None:
    rewards, values = b.draw(0), b.draw(1)
    advantages, returns = gae(rewards, values, b.mask, gamma, lam)
    for row, length in enumerate(b.lengths):
        for t in range(b.columns):
            total = 0.0
            for later in range(t, length):
                following = float(values[row, later + 1]) if later + 1 < length else 0.0
                error = float(rewards[row, later]) + gamma * following - float(values[row, later])
                total += (gamma * lam) ** (later - t) * error
            assert advantages[row, t] == pytest.approx(total, rel=1e-9, abs=1e-9)
            value = float(values[row, t]) if t < length else 0.0
            assert returns[row, t] == pytest.approx(total + value, rel=1e-9, abs=1e-9)


@checked
@given(responses(), PROBABILITIES, PROBABILITIES, st.sampled_from(WORST))
def test_what_is_masked_is_not_read(b: Responses, gamma: float, lam: float, worst: float) -> None:
    rewards, values, penalty = b.draw(0), b.draw(1), b.draw(2)
    wrong = [b.spoilt(x, worst) for x in (rewards, values, penalty)]
    for found, right in zip(
        (*gae(wrong[0], wrong[1], b.mask, gamma, lam), penalty_to_go(wrong[2], b.mask)),
        (*gae(rewards, values, b.mask, gamma, lam), penalty_to_go(penalty, b.mask)),
        strict=True,
    ):
        torch.testing.assert_close(found, right, **CLOSE)
        assert (found[~b.mask] == 0).all()


@checked
@given(responses(), PROBABILITIES, PROBABILITIES, st.floats(-5, 5))
def test_gae_is_linear(b: Responses, gamma: float, lam: float, factor: float) -> None:
    first, second = (b.draw(0), b.draw(1)), (b.draw(2), b.draw(3))
    joined = [x + factor * y for x, y in zip(first, second, strict=True)]
    for found, x, y in zip(
        gae(joined[0], joined[1], b.mask, gamma, lam),
        gae(*first, b.mask, gamma, lam),
        gae(*second, b.mask, gamma, lam),
        strict=True,
    ):
        torch.testing.assert_close(found, x + factor * y, **CLOSE)


@checked
@given(responses(), PROBABILITIES, PROBABILITIES)
def test_shaping_by_a_potential_changes_no_advantage(
    b: Responses, gamma: float, lam: float
) -> None:
    """Ng, Harada, Russell (1999): r + gamma F(s') - F(s), with V - F, has the same TD errors."""
    rewards, values = b.draw(0), b.draw(1)
    potential = b.spoilt(b.draw(2), 0.0)  # there is none behind the end
    following = torch.cat([potential[:, 1:], torch.zeros_like(potential[:, :1])], dim=1)
    shaped = rewards + gamma * following - potential
    found, _ = gae(shaped, values - potential, b.mask, gamma, lam)
    torch.testing.assert_close(found, gae(rewards, values, b.mask, gamma, lam)[0], **CLOSE)


@checked
@given(responses())
def test_a_penalty_to_go_loses_each_token_in_turn(b: Responses) -> None:
    penalty = b.draw(0)
    to_go = penalty_to_go(penalty, b.mask)
    following = torch.cat([to_go[:, 1:], torch.zeros_like(to_go[:, :1])], dim=1)
    torch.testing.assert_close((to_go - following)[b.mask], penalty[b.mask], **CLOSE)
    # It is the undiscounted return of GAE with lambda 1, of minus the penalty as a reward.
    zeros = torch.zeros_like(penalty)
    torch.testing.assert_close(gae(penalty, zeros, b.mask, 1.0, 1.0)[1], to_go, **CLOSE)


@checked
@given(groups(), st.randoms(use_true_random=False), st.floats(-50, 50), st.floats(0.1, 10))
def test_group_baselines(drawn: tuple, chance: object, shift: float, factor: float) -> None:
    rewards, ids = drawn
    place = list(range(len(ids)))
    chance.shuffle(place)  # type: ignore[attr-defined]
    for name in ("grpo", "scaled", "rloo"):
        function = partial(by_scores, name=name)
        found = function(rewards, ids)
        for group in ids.unique():
            assert float(found[ids == group].sum()) == pytest.approx(0, abs=1e-6)
        torch.testing.assert_close(function(rewards[place], ids[place]), found[place], **CLOSE)
        # What all responses to a prompt get alike teaches nothing about them.
        per_group = shift * (ids % 3).double()
        torch.testing.assert_close(function(rewards + per_group, ids), found, rtol=1e-6, atol=1e-6)
    centred = by_scores(rewards, ids)
    for group in ids.unique():
        n = int((ids == group).sum())
        torch.testing.assert_close(
            by_scores(rewards, ids, "rloo")[ids == group],
            centred[ids == group] * n / (n - 1),
            **CLOSE,
        )
    # The unit of rewards does not matter where their spread is not next to none.
    std = group_std(rewards, ids) * min(factor, 1)
    wide = (std > STD_FLOOR) | (std == 0)
    torch.testing.assert_close(
        by_scores(factor * rewards, ids, "scaled")[wide],
        by_scores(rewards, ids, "scaled")[wide],
        rtol=1e-6,
        atol=1e-6,
    )
    column = torch.stack([rewards, -2 * rewards], dim=1)
    expected = torch.stack([group_centred(x, ids) for x in column.T], dim=1)
    torch.testing.assert_close(group_centred(column, ids), expected, **CLOSE)


@checked
@given(responses(), st.integers(1, 4), st.sampled_from(["fixed", "randomized", "ppl"]))
def test_macro_actions_divide_a_response(b: Responses, n: int, kind: str) -> None:
    if kind == "fixed":
        ids = fixed_macro_actions(b.mask, n)
    elif kind == "randomized":
        ids = randomized_macro_actions(b.mask, n, list(range(len(b.lengths))))
    else:
        ids = perplexity_macro_actions(b.mask, b.spoilt(-b.draw(0).abs(), torch.nan))
    assert (ids[:, 0] == 0).all()
    steps = ids.diff(dim=1)
    assert ((steps == 0) | (steps == 1)).all()
    for row, length in enumerate(b.lengths):
        sizes = torch.unique_consecutive(ids[row, :length], return_counts=True)[1].tolist()
        assert sum(sizes) == length
        if kind == "fixed":
            assert all(size == n for size in sizes[:-1])
        if kind == "randomized":
            assert all(sizes[:-1].count(size) <= n for size in RANDOM_LENGTHS)


@checked
@given(
    responses(), st.integers(1, 4), PROBABILITIES, PROBABILITIES, st.sampled_from(VALUE_FUNCTIONS)
)
def test_gae_over_macro_actions(
    b: Responses, n: int, gamma: float, lam: float, value_function: str
) -> None:
    rewards, values = (b.spoilt(b.draw(i), torch.nan) for i in (0, 1))
    single = fixed_macro_actions(b.mask, 1)
    for found, expected in zip(
        macro_gae(rewards, values, b.mask, single, gamma, lam, value_function),
        gae(rewards, values, b.mask, gamma, lam),
        strict=True,
    ):
        assert torch.equal(found, expected)
    ids = fixed_macro_actions(b.mask, n)
    # Tokens of one macro action share its advantage; with equal values in it, no weighting counts.
    level = b.draw(2)[:, :1].expand_as(values)
    advantages, returns = macro_gae(rewards, level, b.mask, ids, gamma, lam, value_function)
    plain, _ = macro_gae(rewards, level, b.mask, ids, gamma, lam, "equal")
    torch.testing.assert_close(advantages, plain, **CLOSE)
    for row, length in enumerate(b.lengths):
        for t in range(1, length):
            if ids[row, t] == ids[row, t - 1]:
                assert advantages[row, t] == advantages[row, t - 1]
                assert returns[row, t] == returns[row, t - 1]
    # One macro action for all: the whole reward, minus its value, whatever gamma and lambda are.
    whole, _ = macro_gae(rewards, values, b.mask, torch.zeros_like(ids), gamma, lam, value_function)
    for row, length in enumerate(b.lengths):
        v = values[row, :length].tolist()
        value = {
            "equal": lambda v=v: sum(v) / len(v),
            "unit": lambda v=v: v[-1],
            "first": lambda v=v: v[0],
            "position": lambda v=v: (
                sum(x / i for i, x in enumerate(v, start=1))
                / sum(1 / i for i in range(1, len(v) + 1))
            ),
        }[value_function]
        for t in range(length):
            expected = float(rewards[row, :length].sum()) - value()
            # The weights are kept in single precision.
            assert float(whole[row, t]) == pytest.approx(expected, rel=1e-5, abs=1e-5)
