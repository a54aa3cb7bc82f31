"""The reward of checked answers: its flags, and the forms in which a response can say its answer.

`dschat.rewards.maths` reads the forms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dschat.settings.command_line import Settings, flag, require
from dschat.settings.registry import REWARDS

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
    "math_answers",
    "dschat.rewards.math_answers:math_answer_reward",
    MathAnswerSettings,
    "checked answers to problems with a number as solution, and their format",
)
