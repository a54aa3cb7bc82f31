"""Groups whose rewards are all equal: counted, and a warning when nothing else is left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dschat.online.metrics import PATIENCE, RewardVariation, _equal_groups

CPU = torch.device("cpu")


def experience(places: list[int], scores: list[float]) -> Any:
    """What `_equal_groups` looks at."""
    return SimpleNamespace(rollout=SimpleNamespace(indices=places), scores=torch.tensor(scores))


@pytest.mark.parametrize(
    ("scores", "share"),
    [
        ([1, 1, 1, 1, 1, 1], 1.0),  # all groups of one mean as well
        ([1, 1, 1, 2, 2, 2], 1.0),  # groups differ, but not within
        ([1, 1, 2, 2, 2, 2], 0.5),
        ([0, 1, 2, 3, 3, 4], 0.0),
    ],
)
def test_equal_groups_over_micro_batches(scores: list[float], share: float) -> None:
    """Responses of a group may lie in several micro-batches, in any order."""
    order = [5, 0, 3, 1, 4, 2]
    batches = [
        experience(part, [scores[place] for place in part]) for part in (order[:4], order[4:])
    ]
    assert _equal_groups(batches, 6, 3, CPU) == share


def test_a_warning_after_iterations_without_variation() -> None:
    watch = RewardVariation()
    equal = {"reward": 0.5, "equal_groups": 1.0, "reward_std": 0.3, "reward/found_by_none": 1.0}
    varied = {**equal, "equal_groups": 0.9}
    assert [watch.warning(equal) for _ in range(PATIENCE - 1)] == [None] * (PATIENCE - 1)
    assert watch.warning(varied) is None  # begins anew
    found = [watch.warning(equal) for _ in range(2 * PATIENCE)]
    assert [message is not None for message in found] == [
        n == PATIENCE - 1 for n in range(2 * PATIENCE)
    ]
    message = found[PATIENCE - 1] or ""
    assert "WARNING" in message
    assert "reward/found_by_none 1" in message
    assert watch.warning({"skipped": 1.0}) is None


def test_without_groups_all_responses_are_compared() -> None:
    watch = RewardVariation()
    found = [watch.warning({"reward": 1.0, "reward_std": 0.0}) for _ in range(PATIENCE)]
    assert "of all responses" in (found[-1] or "")
    watch = RewardVariation()
    assert not any(watch.warning({"reward": 1.0, "reward_std": 0.1}) for _ in range(20))
