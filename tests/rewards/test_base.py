"""What may be a reward: functions, async ones, objects with and without the protocol."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from dschat.errors import UserError
from dschat.rewards import RewardFunction, as_reward, score_responses

PROMPTS, RESPONSES = ["a?", "b?"], ["yes", "no way"]
ROWS: list[dict[str, Any]] = [{}, {}]


def length(prompts: list[str], responses: list[str], examples: list[Any]) -> list[int]:
    return [len(response) for response in responses]


async def length_async(prompts: list[str], responses: list[str], examples: list[Any]) -> list[int]:
    return length(prompts, responses, examples)


class Plain:
    """An object that inherits nothing."""

    collective = True

    def __call__(self, prompts: list[str], responses: list[str], examples: list[Any]) -> list[int]:
        raise AssertionError("explained is what is asked")

    async def explained(self, *given: Any) -> tuple[list[int], dict[str, list[float]]]:
        return length(*given), {"words": [1.0, 2.0]}


class Inherits(RewardFunction):
    name = "mine"

    async def __call__(self, *given: Any) -> list[float]:  # type: ignore[override]
        return [float(n) for n in length(*given)]


@pytest.mark.parametrize(
    ("reward", "name", "collective", "parts"),
    [
        (length, "length", False, {}),
        (length_async, "length_async", False, {}),
        (Plain(), "Plain", True, {"words": [1.0, 2.0]}),
        (Inherits(), "mine", False, {}),
    ],
)
def test_whatever_can_be_called_like_one_is_a_reward(
    reward: Any, name: str, collective: bool, parts: dict[str, list[float]]
) -> None:
    adapted = as_reward(reward)
    assert (adapted.name, adapted.collective) == (name, collective)
    assert score_responses(adapted, PROMPTS, RESPONSES, ROWS) == ([3.0, 6.0], parts)
    assert as_reward(adapted) is adapted


def test_all_calls_of_an_async_reward_share_an_event_loop() -> None:
    """As connections of a client that is kept between calls need it."""
    loops = []

    async def noted(prompts: list[str], *_: Any) -> list[float]:
        loops.append(asyncio.get_running_loop())
        return [0.0] * len(prompts)

    for _ in range(2):
        score_responses(as_reward(noted), PROMPTS, RESPONSES, ROWS)
    assert loops[0] is loops[1]
    assert not loops[0].is_closed()


def test_a_name_given_goes_before_the_functions_own() -> None:
    assert as_reward(lambda *_: [0.0], "short").name == "short"


@pytest.mark.parametrize("wrong", [Plain, 3.0, None])
def test_what_cannot_be_called_is_refused(wrong: Any) -> None:
    with pytest.raises(UserError, match="must be a function of"):
        as_reward(wrong)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_reward_that_raises_is_named_with_the_prompt_it_raises_on(is_async: bool) -> None:
    def fussy(prompts: list[str], *_: Any) -> list[float]:
        if "b?" in prompts:
            raise KeyError("no b")
        return [0.0]

    async def fussy_async(*given: Any) -> list[float]:
        return fussy(*given)

    reward = as_reward(fussy_async if is_async else fussy, "fussy")
    with pytest.raises(UserError, match=r"fussy raised KeyError\('no b'\).*'b\?'.*'no way'"):
        score_responses(reward, PROMPTS, RESPONSES, ROWS)
