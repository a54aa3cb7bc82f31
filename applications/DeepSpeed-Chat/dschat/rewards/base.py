"""What a reward function is, and the check of what it returned."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any, Protocol

from dschat.errors import UserError


class RewardFunction(Protocol):
    """Scores responses.

    Args of a call:
        prompts: the prompts' texts. responses: the responses' texts, without the end token.
        examples: for each response the data row its prompt came from, and what the trainer adds:
            `prompt_ids` and `response_ids` (token ids without padding; the end token included
            where the response ended with it) for rewards that score tokens; in training also
            `conversation` (the prompt as it is in the data) for those with another chat template.

    Returns:
        One finite number per response, in order.
    """

    def __call__(
        self, prompts: list[str], responses: list[str], examples: list[dict[str, Any]]
    ) -> list[float]: ...


class ExplainedReward(RewardFunction, Protocol):
    """A reward function that can also say how a reward came about, for the metrics."""

    def explained(
        self, prompts: list[str], responses: list[str], examples: list[dict[str, Any]]
    ) -> tuple[list[float], dict[str, list[float]]]:
        """The rewards of a call, and by name one number per response."""
        ...


def check_rewards(
    rewards: Sequence[Any], prompts: Sequence[str], name: str, finite: bool = True
) -> list[float]:
    """The rewards as floats.

    Args:
        finite: refuse NaN and infinity as well; else they are left to the caller.

    Raises:
        UserError: a wrong count, something that is no number, NaN or infinity; names the reward
            function and the first prompt concerned.
    """
    if isinstance(rewards, str) or not hasattr(rewards, "__len__"):
        raise UserError(
            f"The reward function {name} returned a {type(rewards).__name__}; expected a list of "
            f"{len(prompts)} numbers."
        )
    if len(rewards) != len(prompts):
        raise UserError(
            f"The reward function {name} returned {len(rewards)} rewards for {len(prompts)} "
            "responses; expected one number for each."
        )
    checked = []
    for reward, prompt in zip(rewards, prompts, strict=True):
        number: float | None = None
        if not isinstance(reward, str):
            with contextlib.suppress(TypeError, ValueError):
                number = float(reward)
        if number is None or (finite and not math.isfinite(number)):
            raise UserError(
                f"The reward function {name} returned {reward!r} where a finite number was "
                f"expected, for the prompt {prompt[-200:]!r}."
            )
        checked.append(number)
    return checked


def first_raising(
    reward: RewardFunction,
    prompts: list[str],
    responses: list[str],
    examples: list[dict[str, Any]],
) -> int:
    """Which response a reward function that raised on the whole batch raises on alone; else 0."""
    for i in range(len(prompts)):
        try:
            reward(prompts[i : i + 1], responses[i : i + 1], examples[i : i + 1])
        except Exception:
            return i
    return 0
