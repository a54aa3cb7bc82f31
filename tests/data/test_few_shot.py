"""Worked examples before every question: from the training part, and never evaluated on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dschat.data.schemas.gsm8k import with_worked_examples
from dschat.errors import UserError


def row(number: int) -> dict[str, Any]:
    """A row as the data layer makes it in the phase of RL."""
    prompt = [
        {"role": "system", "content": "Solve."},
        {"role": "user", "content": f"What is {number} + 0?"},
    ]
    answer = f"It is <<{number}+0={number}>>{number}.\n#### {number}"
    example = {"question": prompt[1]["content"], "answer": answer}
    return {"prompt": prompt, "example": json.dumps(example)}


def test_examples_are_turns_before_the_question() -> None:
    train, held_out = with_worked_examples(map(row, range(5)), [row(9)], 2)
    assert [m["role"] for m in held_out[0]["prompt"]] == [
        "system", "user", "assistant", "user", "assistant", "user",
    ]  # fmt: skip
    contents = [m["content"] for m in held_out[0]["prompt"]]
    assert contents[1] == "What is 0 + 0?"
    assert contents[2] == "<reasoning>\nIt is 0.\n</reasoning>\n<answer>\n0\n</answer>"
    assert contents[3] == "What is 1 + 0?"
    assert contents[5] == "What is 9 + 0?"
    # What is shown is not learnt from, and every prompt has the same examples.
    assert [r["prompt"][-1]["content"] for r in train] == [f"What is {n} + 0?" for n in (2, 3, 4)]
    assert all(r["prompt"][:-1] == held_out[0]["prompt"][:-1] for r in train)
    assert [r["example"] for r in train] == [row(n)["example"] for n in (2, 3, 4)]


def test_an_evaluated_question_is_never_an_example() -> None:
    train, held_out = with_worked_examples([row(7), row(7), row(1), row(1), row(2)], [row(7)], 1)
    assert held_out[0]["prompt"][1]["content"] == "What is 1 + 0?"
    assert len(train) == 3  # both copies of the example are gone
    with pytest.raises(UserError, match=r"--few_shot 2: .* 1 rows of 3"):
        with_worked_examples([row(7), row(8), row(1)], [row(7), row(8)], 2)
    with pytest.raises(UserError, match="one more is needed"):
        with_worked_examples([row(1)], [row(7)], 1)


def test_other_data_is_refused() -> None:
    plain = {"prompt": "What is 1 + 1?", "example": json.dumps({"answer": "#### 2"})}
    with pytest.raises(UserError, match="--few_shot needs data with the columns question"):
        with_worked_examples([plain, plain], [], 1)
