"""The registries with all built-in parts: an entry each, imported when a run uses it.

Entries with flags of their own stand beside these: `dschat.settings.penalties` and `.rewards`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dschat.settings.algorithms import policy_losses as policy_losses  # registers them
from dschat.settings.penalties import REGULARIZERS
from dschat.settings.registry import ADVANTAGES, DATA_SCHEMAS, POLICY_LOSSES
from dschat.settings.regularizers import published as _published  # noqa: F401  adds its entries
from dschat.settings.regularizers import semantic as _semantic  # noqa: F401
from dschat.settings.regularizers import trust_regions as _trust_regions  # noqa: F401
from dschat.settings.rewards import REWARDS

__all__ = ["ADVANTAGES", "DATA_SCHEMAS", "POLICY_LOSSES", "REGULARIZERS", "REWARDS"]


@dataclass
class CriticSettings:
    """Of an advantage that is estimated from a critic's values."""

    needs_critic: ClassVar[bool] = True


@dataclass
class ReturnSettings:
    """Of an advantage made of discounted returns, which are whitened."""

    discounts: ClassVar[bool] = True
    whitens: ClassVar[bool] = True


@dataclass
class GroupReturnSettings:
    """Of an advantage made of returns minus their group's mean, which are whitened."""

    whitens: ClassVar[bool] = True


ADVANTAGES.add(
    "gae",
    "dschat.algorithms.estimators:gae_advantage",
    CriticSettings,
    "generalised advantage estimation with a critic (PPO)",
)
ADVANTAGES.add(
    "grpo",
    "dschat.algorithms.estimators:grpo_advantage",
    summary="the reward minus its group's mean",
)
ADVANTAGES.add(
    "rloo",
    "dschat.algorithms.estimators:rloo_advantage",
    summary="the reward minus the mean of its group's others",
)
ADVANTAGES.add(
    "reinforce++",
    "dschat.algorithms.estimators:reinforce_plus_plus",
    ReturnSettings,
    "discounted returns, whitened over the iteration's tokens (REINFORCE++)",
)
ADVANTAGES.add(
    "reinforce++_baseline",
    "dschat.algorithms.estimators:reinforce_plus_plus_baseline",
    GroupReturnSettings,
    "grpo's without scaling, whitened over the iteration's tokens (REINFORCE++-baseline)",
)

# The last is tried first (`dschat.data.schemas`).
_SCHEMAS = {
    "preferences": "preferences:PREFERENCES",
    "dialogues": "dialogues:DIALOGUES",
    "chat preferences": "preferences:CHAT_PREFERENCES",
    "conversations": "conversations:CONVERSATIONS",
    "completions": "conversations:COMPLETIONS",
    "chat completions": "conversations:CHAT_COMPLETIONS",
    "gsm8k": "gsm8k:GSM8K",
    "apps": "apps:APPS",
    "webgpt": "webgpt:WEBGPT",
    "summaries": "summaries:SUMMARIES",
}
for _name, _target in _SCHEMAS.items():
    DATA_SCHEMAS.add(_name, f"dschat.data.schemas.{_target}")
