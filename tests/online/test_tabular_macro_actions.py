"""Macro actions in the world of `test_tabular_world.py`: which value function has a bias.

The table in docs/macro_actions.md is printed here (-s).
"""

from __future__ import annotations

import pytest
import torch
from dschat.regularization import KLDivergence
from dschat.scoring.targets import MacroActions
from tabular import (
    DIVERGENCES,
    PREFIXES,
    objectives_gradient,
    trainers_gradient,
    true_values,
    world,
)

SEEDS = range(5)
GROUPINGS = {
    "pairs": {"kind": "fixed", "ngram": 2},
    "whole": {"kind": "fixed", "ngram": 3},
    "randomized": {"kind": "randomized", "repeat_times": 1, "seed": 5},
}


def error(value_function: str, grouping: str, seed: int, critic_is_right: bool) -> float:
    """Of the expected update, relative to the gradient of the regularised objective."""
    policy, reference, rewards = world(seed)
    regularizer = KLDivergence()
    if critic_is_right:
        critic = true_values(policy, reference, rewards, regularizer)
    else:
        generator = torch.Generator().manual_seed(100 + seed)
        critic = torch.randn(len(PREFIXES), generator=generator).double()
    macro = MacroActions(**GROUPINGS[grouping])  # type: ignore[arg-type]
    parts = regularizer, critic, macro, value_function
    found = trainers_gradient(policy, reference, rewards, *parts)
    expected = objectives_gradient(policy, reference, rewards, DIVERGENCES["rkl"])
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("critic_is_right", [False, True])
@pytest.mark.parametrize("grouping", list(GROUPINGS))
def test_the_value_before_the_macro_action_is_a_baseline(
    grouping: str, critic_is_right: bool
) -> None:
    for seed in SEEDS:
        assert error("first", grouping, seed, critic_is_right) < 1e-10


def test_the_published_value_functions_are_none() -> None:
    print("\n| | random critic | true critic |\n|---|---|---|")
    for name in ("equal", "unit", "position", "first"):
        mean = {
            right: sum(error(name, "pairs", seed, right) for seed in SEEDS) / len(SEEDS)
            for right in (False, True)
        }
        print(f"| `{name}` | {mean[False]:.1%} | {mean[True]:.1%} |")
        if name != "first":
            assert mean[False] > 0.1
            assert mean[False] > mean[True] > 0.001


def test_single_tokens_have_no_bias_whatever_the_value_function() -> None:
    policy, reference, rewards = world(0)
    critic = torch.randn(len(PREFIXES)).double()
    expected = objectives_gradient(policy, reference, rewards, DIVERGENCES["rkl"])
    for name in ("equal", "unit", "position", "first"):
        parts = KLDivergence(), critic, MacroActions(), name
        found = trainers_gradient(policy, reference, rewards, *parts)
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-8)
