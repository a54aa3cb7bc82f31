"""What a reward function is, the user's own made into one, and the check of what it returns."""

from __future__ import annotations

import asyncio
import atexit
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

from dschat.errors import UserError
from dschat.rewards.keyword_form import keywords_for, takes_keywords
from dschat.rewards.time_limit import within_limit

Example = dict[str, Any]
Parts = Mapping[str, Sequence[float | None]]
"""What a reward tells of: one number or None per response, by name."""


class RewardFunction(Protocol):
    """Scores responses. A class inherits the defaults below; `as_reward` adapts anything else.

    Args of a call:
        prompts: the prompts' texts. responses: the responses' texts, without the end token.
        examples: for each response the data row its prompt came from, and what the trainer adds:
            `prompt_ids` and `response_ids` (token ids without padding; the end token included
            where the response ended with it) for rewards that score tokens; in training also
            `conversation` (the prompt as it is in the data) for those with another chat template.

    Returns:
        One finite number per response, in order; None where the reward does not apply.

    Attributes:
        name: for messages.
        names: of the rewards that `explained` tells of by themselves, as metrics call them.
    """

    name: str = "reward"
    names: tuple[str, ...] = ()

    @property
    def collective(self) -> bool:
        """Whether a rank's call waits for all others', which must score as many responses."""
        return False

    def __call__(
        self, prompts: list[str], responses: list[str], examples: list[Example]
    ) -> Sequence[float | None]: ...

    def explained(
        self, prompts: list[str], responses: list[str], examples: list[Example]
    ) -> tuple[Sequence[float | None], Parts]:
        """The rewards of a call, and by name what metrics average: one number per response.

        None in a part: the mean is over the other responses.
        """
        return awaited(self(prompts, responses, examples)), {}


class AdaptedReward(RewardFunction):
    """A plain or async function, or an object that inherits nothing, as a `RewardFunction`."""

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        own = getattr(function, "name", None) or getattr(function, "__name__", None)
        self.name = name or str(own or type(function).__name__)
        self.function = function
        self.by_keywords = takes_keywords(function, self.name)

    @property
    def collective(self) -> bool:
        """That of the object, if it says so."""
        return bool(getattr(self.function, "collective", False))

    def __call__(
        self, prompts: list[str], responses: list[str], examples: list[Example]
    ) -> Sequence[float | None]:
        """The function's rewards, awaited if it is async."""
        if self.by_keywords:
            rows = prompts, responses, examples
            return awaited(self.function(**keywords_for(self.function, self.name, *rows)))
        return awaited(self.function(prompts, responses, examples))

    def explained(
        self, prompts: list[str], responses: list[str], examples: list[Example]
    ) -> tuple[Sequence[float | None], Parts]:
        """The object's own `explained` if it has one."""
        own = getattr(self.function, "explained", None)
        if own is None:
            return self(prompts, responses, examples), {}
        return awaited(own(prompts, responses, examples))


def as_reward(reward: Callable[..., Any], name: str | None = None) -> RewardFunction:
    """A reward as the trainer uses it; called once, where a reward is built.

    Args:
        reward: a `RewardFunction`, or any function or object called like one; may be async.
        name: what a function is called, where its own name does not say it.

    Raises:
        UserError: it cannot be called.
    """
    if isinstance(reward, type) or not callable(reward):
        raise UserError(
            f"A reward must be a function of (prompts, responses, examples) or an object with such "
            f"a __call__; given {reward!r}."
        )
    if RewardFunction in type(reward).__mro__:
        return cast(RewardFunction, reward)
    return AdaptedReward(reward, name)


def awaited(result: Any) -> Any:
    """The result of a call, also of an async one."""
    if not inspect.isawaitable(result):
        return result

    async def wait() -> Any:
        return await within_limit(result)

    return _event_loop().run_until_complete(wait())


@functools.cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """One for all calls: connections that a reward keeps between calls belong to it."""
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop


def score_responses(
    reward: RewardFunction,
    prompts: list[str],
    responses: list[str],
    examples: list[Example],
    finite: bool = True,
) -> tuple[list[float], Parts]:
    """The rewards as checked floats, and the parts that the reward tells of (see `explained`).

    Args:
        finite: see `check_rewards`.

    Raises:
        UserError: see `scores_where_applicable` and `check_rewards`.
    """
    rewards, parts = scores_where_applicable(reward, prompts, responses, examples)
    return check_rewards(rewards, prompts, reward.name, finite), parts


def scores_where_applicable(
    reward: RewardFunction, prompts: list[str], responses: list[str], examples: list[Example]
) -> tuple[list[float | None], Parts]:
    """As `score_responses`, with None where the reward does not apply; NaN and infinity pass.

    Raises:
        UserError: the reward raised, or returned something else than one number or None a
            response; names the reward and the prompt. What a collective reward raises is left as
            it is: other ranks wait.
    """
    try:
        rewards, parts = reward.explained(prompts, responses, examples)
    except UserError:
        raise
    except Exception as error:
        if reward.collective:
            raise
        first = first_raising(reward, prompts, responses, examples)
        raise UserError(
            f"The reward function {reward.name} raised {error!r} for the prompt "
            f"{prompts[first][-200:]!r} and the response {responses[first][:200]!r}."
        ) from error
    return _numbers(rewards, prompts, reward.name), parts


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
    checked = []
    for number, prompt in zip(_numbers(rewards, prompts, name), prompts, strict=True):
        if number is None or (finite and not math.isfinite(number)):
            raise _not_a_number(number, prompt, name)
        checked.append(number)
    return checked


def _numbers(rewards: Sequence[Any], prompts: Sequence[str], name: str) -> list[float | None]:
    """One float or None per prompt; see `check_rewards`."""
    if isinstance(rewards, str) or not hasattr(rewards, "__len__"):
        raise UserError(
            f"The reward function {name} returned a {type(rewards).__name__}; expected a list of "
            f"{len(prompts)} numbers."
        )
    if len(rewards) != len(prompts):
        raise UserError(
            f"The reward function {name} returned {len(rewards)} rewards for {len(prompts)} "
            "responses; expected one number for each. The first of these responses is to the "
            f"prompt {prompts[0][-200:]!r}."
        )
    numbers: list[float | None] = []
    for reward, prompt in zip(rewards, prompts, strict=True):
        if reward is None:
            numbers.append(None)
            continue
        try:
            if isinstance(reward, str):
                raise TypeError
            numbers.append(float(reward))
        except (TypeError, ValueError):
            raise _not_a_number(reward, prompt, name) from None
    return numbers


def _not_a_number(reward: Any, prompt: str, name: str) -> UserError:
    return UserError(
        f"The reward function {name} returned {reward!r} where a finite number was expected, for "
        f"the prompt {prompt[-200:]!r}."
    )


def first_raising(
    reward: RewardFunction, prompts: list[str], responses: list[str], examples: list[Example]
) -> int:
    """Which response a reward function that raised on the whole batch raises on alone; else 0."""
    for i in range(len(prompts)):
        try:
            reward.explained(prompts[i : i + 1], responses[i : i + 1], examples[i : i + 1])
        except Exception:
            return i
    return 0
