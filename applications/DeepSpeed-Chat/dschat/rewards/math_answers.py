"""Rewards for mathematics with a known answer: is it right, and is it in the format asked for?

The parts and their sizes are those that GRPO on GSM8K is commonly shown with: answer 2.0, integer,
strict and soft format 0.5 each, and 0.125 for each of four tags. What differs from that recipe is
said at `MathAnswerReward`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from dschat.errors import UserError
from dschat.rewards.base import RewardFunction
from dschat.rewards.math_numbers import is_integer, same_answer
from dschat.rewards.maths.extraction import find_answer, tagged
from dschat.settings.rewards import FORMS, PUBLISHED_FORMS, MathAnswerSettings

__all__ = [
    "MathAnswerReward",
    "MathRewardWeights",
    "answered_correctly",
    "gold_answer",
]

FINAL_ANSWER_MARK = "####"
TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
PARTS = ("answer", "integer", "strict_format", "soft_format", "tags")


@dataclass(frozen=True)
class MathRewardWeights:
    """What each part of the reward is worth; 0 leaves a part out.

    Raises:
        UserError: a weight is not finite, or all are 0.
    """

    answer: float = 2.0
    integer: float = 0.5
    strict_format: float = 0.5
    soft_format: float = 0.5
    tag: float = 0.125

    def __post_init__(self) -> None:
        weights = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, weight in weights.items():
            if not math.isfinite(weight):
                raise UserError(f"The reward weight {name} is {weight}; expected a finite number.")
        if not any(weights.values()):
            raise UserError("All reward weights are 0: there is nothing to learn. Set one of them.")


def gold_answer(example: dict[str, Any]) -> str:
    """The right answer of a row in the form of GSM8K: what stands after "####".

    Raises:
        UserError: the row has no such answer.
    """
    answer = example.get("answer")
    _, mark, final = str(answer).rpartition(FINAL_ANSWER_MARK)
    if not isinstance(answer, str) or not mark or not final.strip():
        raise UserError(
            f"The maths reward needs rows whose 'answer' ends in {FINAL_ANSWER_MARK!r} and the "
            f"right answer, as GSM8K has them; given answer: {str(answer)[-80:]!r}. Use such data."
        )
    return final.strip()


def answered_correctly(
    response: str, example: dict[str, Any], forms: Sequence[str] = FORMS
) -> bool:
    """Whether a response's answer is the row's; see `find_answer` and `same_answer`."""
    gold = gold_answer(example)
    answer, _ = find_answer(response, forms)
    return answer is not None and same_answer(answer, gold)


class MathAnswerReward(RewardFunction):
    """The sum of five parts, each a weight times 0 or 1 (tags: times 0 to 4).

    answer: the extracted answer is the row's number. integer: it is an integer written as one.
    strict_format: the response is <reasoning>, text, </reasoning>, <answer>, text, </answer> with
    each tag on a line of its own and once, and nothing before or behind. soft_format: the tags
    come in this order somewhere. tags: how many of the four tags occur exactly once.

    Other than in the usual recipe: answers are compared as numbers and not as texts, the strict
    format may hold several lines of reasoning and need not end in a line end, and there is no small
    penalty per character behind </answer> (the strict format is lost there already).

    `forms` says where the answer of the first part may stand (`maths.extraction`). As published it
    counts only inside its tags; the other parts always look at the tags alone.

    Where the chat template opens the response with <reasoning>, the prompt ends with that tag; it
    is then put before the response again, so that the format can be seen.
    """

    name = "maths answer"

    def __init__(
        self, weights: MathRewardWeights | None = None, forms: Sequence[str] = PUBLISHED_FORMS
    ) -> None:
        self.weights = weights or MathRewardWeights()
        self.forms = forms

    def __call__(
        self, prompts: list[str], responses: list[str], examples: list[dict[str, Any]]
    ) -> list[float]:
        """One reward per response; reads `answer` of the examples."""
        return self.explained(prompts, responses, examples)[0]

    def explained(
        self, prompts: list[str], responses: list[str], examples: list[dict[str, Any]]
    ) -> tuple[list[float], dict[str, list[float]]]:
        """The rewards, their `parts`, and 0 or 1 for each form: the answer was found by it.

        `found_by_none` is 1 where no form found an answer.
        """
        parts = self.parts(responses, examples, prompts)
        rewards = [math.fsum(values) for values in zip(*parts.values(), strict=True)]
        found = [find_answer(response, self.forms)[1] for response in responses]
        shares = {
            f"found_by_{form or 'none'}": [float(name == form) for name in found]
            for form in (*self.forms, None)
        }
        return rewards, {**parts, **shares}

    def parts(
        self,
        responses: list[str],
        examples: list[dict[str, Any]],
        prompts: list[str] | None = None,
    ) -> dict[str, list[float]]:
        """Every part of the reward by its name in `PARTS`, weighted: they add up to the reward.

        Args:
            prompts: needed only where the chat template opens the response (see the class).

        Raises:
            UserError: see `gold_answer`.
        """
        openings = [""] * len(responses) if prompts is None else map(_opening, prompts)
        scores = [
            self._score(opening + response, example)
            for opening, response, example in zip(openings, responses, examples, strict=True)
        ]
        return {part: [score[i] for score in scores] for i, part in enumerate(PARTS)}

    def _score(self, response: str, example: dict[str, Any]) -> tuple[float, ...]:
        weights = self.weights
        tagged_answer = tagged(response)
        return (
            weights.answer * answered_correctly(response, example, self.forms),
            weights.integer * (tagged_answer is not None and is_integer(tagged_answer)),
            weights.strict_format * has_strict_format(response),
            weights.soft_format * has_soft_format(response),
            weights.tag * sum(response.count(tag) == 1 for tag in TAGS),
        )


def _opening(prompt: str) -> str:
    return TAGS[0] + "\n" if prompt.rstrip().endswith(TAGS[0]) else ""


def has_strict_format(response: str) -> bool:
    """See `MathAnswerReward`. One line end behind the last tag is allowed."""
    response = response.removesuffix("\n")
    if any(response.count(tag) != 1 for tag in TAGS):
        return False
    reasoning, middle, answer = response.partition("\n</reasoning>\n<answer>\n")
    return bool(middle) and reasoning.startswith("<reasoning>\n") and answer.endswith("\n</answer>")


def has_soft_format(response: str) -> bool:
    """See `MathAnswerReward`."""
    position = 0
    for tag in TAGS:
        found = response.find(tag, position)
        if found < 0:
            return False
        position = found + len(tag)
    return True


def math_answer_reward(settings: MathAnswerSettings) -> MathAnswerReward:
    """The reward that the settings describe.

    Raises:
        UserError: a weight is not finite, or all are 0.
    """
    weights = MathRewardWeights(
        answer=settings.answer_reward,
        integer=settings.integer_reward,
        strict_format=settings.strict_format_reward,
        soft_format=settings.soft_format_reward,
        tag=settings.tag_reward,
    )
    return MathAnswerReward(weights, settings.answer_extraction)
