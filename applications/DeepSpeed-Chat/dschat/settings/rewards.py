"""Rewards: what `--reward` names, and the flags of those that are built in.

`--reward` names rewards of the registry and functions of users' files, with weights.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dschat.settings.command_line import Settings, flag, require
from dschat.settings.registry import REWARDS

REWARD_MODEL, CHECKED_ANSWERS = "reward_model", "math"
# Loaded by `dschat.online.models`: the critic without its adapters may be the same model.
REWARDS.add(REWARD_MODEL, "", summary="a sequence classifier, --critic_model_name_or_path")

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
            that is no finite number, or a reward that is given twice.
    """
    specs = [_parsed(text) for text in given]
    require(bool(specs), "--reward is empty: give at least one reward.")
    for (file, name), count in Counter(_place(spec) for spec in specs).items():
        what = name if file is None else f"{file}:{name}"
        require(count == 1, f"--reward names {what!r} {count} times; give each reward once.")
    return specs


def _place(spec: RewardSpec) -> tuple[Path | None, str]:
    return None if spec.file is None else Path(spec.file).expanduser().resolve(), spec.name


def own_metrics(name: str) -> set[str]:
    """The metrics of a reward of that name: its mean, spread, and share of responses."""
    return {name, f"{name}_std", f"{name}_applies"}


def metric_names(specs: Sequence[RewardSpec]) -> list[str]:
    """What metrics call each reward: letters, digits, "_", "-" and "." alone; no two the same.

    A function of a user's file whose name another reward has as well is called "file.function".
    """
    counts = Counter(spec.name for spec in specs)
    taken: set[str] = set()
    names = []
    for spec in specs:
        shared = counts[spec.name] > 1 and spec.file is not None
        name = f"{Path(spec.file or '').stem}.{spec.name}" if shared else spec.name
        plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
        tries = (plain if n == 1 else f"{plain}_{n}" for n in range(1, 2 * len(specs) + 2))
        names.append(next(t for t in tries if not own_metrics(t) & taken))
        taken |= own_metrics(names[-1])
    return names


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


def names_reward(given: Sequence[str] | None, name: str) -> bool:
    """Whether the registry's reward of that name is among the entries of `--reward`.

    None is the reward model alone.
    """
    specs = parse_rewards([REWARD_MODEL] if given is None else given)
    return any(spec.name == name and spec.file is None for spec in specs)


SANDBOXES = ["auto", "bwrap", "limits"]


@dataclass
class SandboxFlags(Settings):
    """How generated programs are run; `code_reward` makes a reward of it."""

    sandbox: str = flag(
        "auto",
        "bwrap: bubblewrap (no network, nothing of this machine but Python). limits: an "
        "unprivileged user with limits, which stop neither sockets nor reads outside. auto: "
        "bwrap where it works, else limits.",
        choices=SANDBOXES,
        group="Running programs",
    )
    reward_workers: int = flag(4, "Programs that run at once, per rank.")
    test_seconds: float = flag(4.0, "Time limit of one test.")
    program_seconds: float = flag(30.0, "Time limit of all tests of a program together.")
    number_comparison: str = flag(
        "exact",
        "exact: an expected integer has to be met exactly. harness: any two numbers within a "
        "relative 1e-5, as the harness of APPS compares them, for published figures; a program "
        "can pass by rounding.",
        choices=["exact", "harness"],
    )
    memory_mb: int = flag(1024, "Address space of a program's processes, in MiB.")

    def check_sandbox_flags(self) -> None:
        """Refuse values out of range; raises `UserError`."""
        require(
            self.reward_workers >= 1, f"--reward_workers {self.reward_workers}: expected 1 or more."
        )
        for name in ("test_seconds", "program_seconds", "memory_mb"):
            value = getattr(self, name)
            require(value > 0, f"--{name} {value}: expected a number above 0.")


@dataclass
class CodeRewardSettings(SandboxFlags):
    """The reward of programs that are run: the share of tests passed."""

    def validate(self) -> None:
        """Refuse values out of range; raises `UserError`."""
        self.check_sandbox_flags()


REWARDS.add(
    "code",
    "dschat.rewards.code_execution:code_reward",
    CodeRewardSettings,
    "generated programs are run on the tests of their problem (APPS)",
)


FORMS = ("tags", "hashes", "boxed", "phrase", "last_number")
PUBLISHED_FORMS = ("tags",)


def check_forms(forms: Sequence[str]) -> None:
    """Refuse names that are no form, none at all, and one that is given twice.

    Raises:
        UserError: they are.
    """
    known = ", ".join(FORMS)
    given = " ".join(forms)
    require(
        bool(forms) and set(forms) <= set(FORMS) and len(set(forms)) == len(forms),
        f"--answer_extraction {given}: expected one or more of {known}, each once, in the order "
        "in which they are to be looked for.",
    )


@dataclass
class MathAnswerSettings(Settings):
    """What a checked answer and its format are worth."""

    answer_reward: float = flag(2.0, "Reward for the right number.")
    integer_reward: float = flag(0.5, "Reward for an answer that is an integer.")
    strict_format_reward: float = flag(0.5, "Reward for the exact format.")
    soft_format_reward: float = flag(0.5, "Reward for all tags in their order.")
    tag_reward: float = flag(0.125, "Reward for each of the four tags that occurs once.")
    answer_extraction: list[str] = flag(
        list(FORMS),
        "Where the answer of a response is looked for, in training and evaluation: the first of "
        "these forms that a response has. tags: <answer>. hashes: ####. boxed: \\boxed{}. phrase: "
        "'the answer is'. last_number. 'tags' alone is the published reward; the other parts of "
        "the reward always look at tags.",
    )

    def validate(self) -> None:
        """Refuse forms that do not exist; raises `UserError`."""
        check_forms(self.answer_extraction)


REWARDS.add(
    CHECKED_ANSWERS,
    "dschat.rewards.math_answers:math_answer_reward",
    MathAnswerSettings,
    "checked answers to problems with a number as solution, and their format",
)


@dataclass
class OverlongSettings(Settings):
    """DAPO's soft penalty of over-long responses."""

    overlong_buffer_len: int | None = flag(
        None,
        "The last tokens of --max_answer_seq_len, over which the penalty grows from 0; unset: a "
        "fifth of it.",
    )
    overlong_penalty_factor: float = flag(1.0, "The penalty of a response of full length.")

    def validate(self) -> None:
        """Refuse values out of range; raises `UserError`."""
        for name in ("overlong_buffer_len", "overlong_penalty_factor"):
            value = getattr(self, name)
            require(
                value is None or value > 0,
                f"{self.flag(name)} {value}: expected a number above 0.",
            )


REWARDS.add(
    "overlong",
    "dschat.rewards.overlong:overlong_penalty",
    OverlongSettings,
    "a penalty of responses near the length limit (DAPO), to be added to another reward",
)
