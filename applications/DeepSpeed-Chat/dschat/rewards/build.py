"""From the entries of `--reward` to the one reward function of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dschat.errors import UserError
from dschat.rewards.base import (
    Example,
    Parts,
    RewardFunction,
    as_reward,
    awaited,
    scores_where_applicable,
)
from dschat.rewards.time_limit import time_limit
from dschat.settings.parts import REWARDS
from dschat.settings.registry import import_file
from dschat.settings.rewards import (
    REWARD_MODEL,
    RewardSpec,
    metric_names,
    own_metrics,
    parse_rewards,
)


@dataclass(frozen=True)
class Weighted:
    """A reward, the name that it goes by, and its weight."""

    name: str
    weight: float
    reward: RewardFunction


class OnlyReward(RewardFunction):
    """The one reward of a run, of weight 1; its parts keep their names.

    Args:
        name: what metrics call it.
    """

    def __init__(self, reward: RewardFunction, name: str) -> None:
        self.reward, self.name, self.names = reward, reward.name, (name,)

    @property
    def collective(self) -> bool:
        """That of the reward."""
        return self.reward.collective

    def __call__(
        self, prompts: list[str], responses: list[str], examples: list[Example]
    ) -> Sequence[float | None]:
        """The rewards."""
        return self.explained(prompts, responses, examples)[0]

    def explained(
        self, prompts: list[str], responses: list[str], examples: list[Example]
    ) -> tuple[Sequence[float | None], Parts]:
        """As of the reward; the reward by its name is added where rewards are summed for the log.

        A part that has a name of the reward's own metrics goes under the reward's: "NAME/part".
        """
        (name,) = self.names
        rewards, parts = awaited(self.reward.explained(prompts, responses, examples))
        taken = own_metrics(name)
        return rewards, {f"{name}/{n}" if n in taken else n: v for n, v in parts.items()}


class TimedReward(RewardFunction):
    """A user's reward whose calls are ended after some seconds; a collective one's are not.

    Args:
        seconds: of one call: of all responses of a rank's generation batch.
    """

    def __init__(self, reward: RewardFunction, seconds: float) -> None:
        self.reward, self.name, self.seconds = reward, reward.name, seconds

    @property
    def collective(self) -> bool:
        """That of the reward. Other ranks would wait for one that is ended."""
        return self.reward.collective

    def __call__(
        self, prompts: list[str], responses: list[str], examples: list[Example]
    ) -> Sequence[float | None]:
        """The rewards."""
        return self.explained(prompts, responses, examples)[0]

    def explained(
        self, prompts: list[str], responses: list[str], examples: list[Example]
    ) -> tuple[Sequence[float | None], Parts]:
        """As of the reward.

        Raises:
            UserError: it took too long; names it, the seconds, and the first prompt.
        """
        if self.collective or not prompts:
            return awaited(self.reward.explained(prompts, responses, examples))
        message = (
            f"The reward function {self.name} did not return within {self.seconds:g} seconds "
            f"(--reward_timeout) for {len(prompts)} responses, the first to the prompt "
            f"{prompts[0][-200:]!r}. Raise the limit, or have the function give up by itself."
        )
        with time_limit(self.seconds, message):
            return awaited(self.reward.explained(prompts, responses, examples))


class WeightedRewards(RewardFunction):
    """The sum of several rewards, each times its weight, over those that apply to a response."""

    def __init__(self, parts: Sequence[Weighted]) -> None:
        self.parts = tuple(parts)
        self.names = tuple(part.name for part in parts)
        self.name = " + ".join(self.names)

    @property
    def collective(self) -> bool:
        """Asked anew each time: ZeRO 3 partitions the critic after the rewards are built."""
        return any(part.reward.collective for part in self.parts)

    def __call__(
        self, prompts: list[str], responses: list[str], examples: list[Example]
    ) -> list[float]:
        """The sums."""
        return self.explained(prompts, responses, examples)[0]

    def explained(
        self, prompts: list[str], responses: list[str], examples: list[Example]
    ) -> tuple[list[float], Parts]:
        """The sums; and each reward by its name, unweighted, None where it does not apply.

        The parts of a reward have its name before their own: "math/answer".

        Raises:
            UserError: see `scores_where_applicable`; or none applies to a response: names the
                prompt.
        """
        terms: list[list[float | None]] = []
        parts: dict[str, Sequence[float | None]] = {}
        for part in self.parts:
            scores, own = scores_where_applicable(part.reward, prompts, responses, examples)
            terms.append([None if s is None else part.weight * s for s in scores])
            parts[part.name] = scores
            parts |= {f"{part.name}/{name}": values for name, values in own.items()}
        sums = []
        for i, row in enumerate(zip(*terms, strict=True)):
            applying = [term for term in row if term is not None]
            if not applying:
                raise UserError(
                    f"None of the rewards ({self.name}) applies to the prompt "
                    f"{prompts[i][-200:]!r}: all returned None. Return a number from one of them, "
                    "or leave the prompt out of the data."
                )
            sums.append(sum(applying))
        return sums, parts


class Rewards:
    """The rewards that a run's settings name, before the reward model is loaded.

    Args:
        settings: `reward` (None: the reward model alone) and the settings of the parts it names.

    Raises:
        UserError: see `parse_rewards`; a file raises or has no such function; what a part says of
            its own settings.
    """

    def __init__(self, settings: Any) -> None:
        given = [REWARD_MODEL] if settings.reward is None else settings.reward
        self._specs = parse_rewards(given)
        self._rewards = [_built(spec, settings) for spec in self._specs]

    @classmethod
    def only(cls, reward: RewardFunction) -> Rewards:
        """A reward function of a caller's, which no settings name."""
        rewards = cls.__new__(cls)
        adapted = as_reward(reward)
        rewards._rewards, rewards._specs = [adapted], [RewardSpec(adapted.name)]
        return rewards

    @property
    def need_reward_model(self) -> bool:
        """Whether `combined` needs one."""
        return None in self._rewards

    def combined(self, reward_model: RewardFunction | None = None) -> RewardFunction:
        """The run's reward: the only one, where there is one of weight 1, or the weighted sum."""
        parts = []
        names = metric_names(self._specs)
        for spec, name, reward in zip(self._specs, names, self._rewards, strict=True):
            found = reward_model if reward is None else reward
            assert found is not None, "the reward model is missing"
            parts.append(Weighted(name, spec.weight, found))
        if len(parts) == 1 and parts[0].weight == 1:
            return OnlyReward(parts[0].reward, parts[0].name)
        return WeightedRewards(parts)


def _built(spec: RewardSpec, settings: Any) -> RewardFunction | None:
    """None: the reward model, which is loaded later."""
    reward = _untimed(spec, settings)
    seconds = getattr(settings, "reward_timeout", None)
    # Built-in rewards have limits of their own, or none to need.
    users = spec.file is not None or not isinstance(REWARDS[spec.name].target, str)
    if reward is None or seconds is None or not users:
        return reward
    return TimedReward(reward, seconds)


def _untimed(spec: RewardSpec, settings: Any) -> RewardFunction | None:
    if spec.file is None:
        if spec.name == REWARD_MODEL:
            return None
        return as_reward(REWARDS[spec.name].load()(settings), spec.name)
    module = import_file(spec.file, "--reward")
    if not hasattr(module, spec.name):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UserError(
            f"--reward {spec.file}:{spec.name}: the file has no {spec.name}; it has "
            f"{', '.join(known) or 'nothing that can be called'}."
        )
    target = getattr(module, spec.name)
    # A class is made without arguments: `--reward my.py:MyReward`.
    return as_reward(target() if isinstance(target, type) else target, spec.name)
