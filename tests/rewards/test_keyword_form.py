"""Reward functions in TRL's form, TRL's own among them."""

from __future__ import annotations

from typing import Any

import pytest
from dschat.errors import UserError
from dschat.rewards import as_reward, score_responses

CHAT = [{"role": "user", "content": "1 + 1?"}]
ROWS: list[dict[str, Any]] = [
    {"solution": "2", "response_ids": [1] * 90, "conversation": CHAT},
    {"solution": "3", "response_ids": [1] * 70, "conversation": CHAT},
]
TEXTS = ["<think>a</think>2", "2"]


def scored(function: Any, rows: list[dict[str, Any]] = ROWS) -> list[float]:
    return score_responses(as_reward(function), ["p", "q"], TEXTS, rows)[0]


def test_trls_own_rewards_run_unchanged() -> None:
    from trl.rewards import get_soft_overlong_punishment, think_format_reward

    assert scored(think_format_reward) == [1.0, 0.0]
    assert scored(get_soft_overlong_punishment(100, 20)) == [-0.5, 0.0]


def test_columns_and_texts_reach_it_also_without_kwargs_and_async() -> None:
    async def right(completions: list[str], solution: list[str]) -> list[float]:
        pairs = zip(completions, solution, strict=True)
        return [float(text.endswith(wanted)) for text, wanted in pairs]

    plain = [{**row, "conversation": "p"} for row in ROWS]
    assert scored(right, plain) == [1.0, 0.0]


def test_a_missing_column_and_another_form_are_named() -> None:
    def needs(completions: list[str], label: list[str], **_: Any) -> list[float]:
        return [0.0] * len(label)

    with pytest.raises(UserError, match="needs the column 'label'.*have solution"):
        scored(needs)
    with pytest.raises(UserError, match="takes neither"):
        as_reward(lambda one: [one])


def test_a_wrong_count_is_named_with_the_prompt() -> None:
    with pytest.raises(UserError, match="1 rewards for 2 responses.*prompt 'p'"):
        scored(lambda prompts, responses, examples: [0.0])


def test_a_column_named_as_a_keyword_is_not_overwritten_in_silence() -> None:
    def taking(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        raise AssertionError("called with another's column")

    rows = [{"completions": "mine"}, {"completions": "mine"}]
    with pytest.raises(UserError, match="taking .* a column of the name 'completions'"):
        score_responses(as_reward(taking), ["p", "q"], ["a", "b"], rows)
