"""What `--reward` names: rewards of the registry and functions of users' files, with weights."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dschat.settings.command_line import require
from dschat.settings.parts import REWARDS

REWARD_MODEL = "reward_model"

_FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<name>[^:]*)(:(?P<weight>.*))?")
_NAMED = re.compile(r"(?P<name>[^:]*)(:(?P<weight>.*))?")


@dataclass(frozen=True)
class RewardSpec:
    """One entry of `--reward`.

    Attributes:
        name: of the registry, or of the function in `file`.
        weight: what its rewards are multiplied by.
        file: the user's Python file; None for a name of the registry.
    """

    name: str
    weight: float = 1.0
    file: str | None = None


def parse_rewards(given: Sequence[str]) -> list[RewardSpec]:
    """The entries of `--reward`: NAME[:weight] or my_file.py:function[:weight].

    Raises:
        UserError: another form, a name that is not registered, a file that is not there, a weight
            that is no finite number, or a name that is given twice.
    """
    specs = [_parsed(text) for text in given]
    require(bool(specs), "--reward is empty: give at least one reward.")
    for name, count in Counter(spec.name for spec in specs).items():
        require(
            count == 1,
            f"--reward names {name!r} {count} times; give each reward once, under a name of its "
            "own.",
        )
    return specs


def _parsed(text: str) -> RewardSpec:
    match = _FUNCTION.fullmatch(text) or _NAMED.fullmatch(text)
    require(match is not None, f"--reward {text!r}: expected NAME or FILE.py:FUNCTION.")
    assert match is not None
    name, file = match["name"], match.groupdict().get("file")
    require(
        not name.endswith(".py"),
        f"--reward {text}: which function of the file? Expected {name}:FUNCTION[:WEIGHT].",
    )
    weight = 1.0
    if match["weight"] is not None:
        try:
            weight = float(match["weight"])
        except ValueError:
            weight = math.nan
        require(
            math.isfinite(weight), f"--reward {text}: the weight must be a number, such as 0.5."
        )
    if file is None:
        REWARDS[name]  # refuses a name that is not registered
    else:
        require(Path(file).expanduser().is_file(), f"--reward {text}: there is no file {file}.")
        require(
            name.isidentifier(), f"--reward {text}: expected the name of a function, not {name!r}."
        )
    return RewardSpec(name, weight, file)


def uses_reward_model(given: Sequence[str] | None) -> bool:
    """Whether a reward model is among the entries of `--reward` (None: nothing else is)."""
    return given is None or any(spec.name == REWARD_MODEL for spec in parse_rewards(given))
