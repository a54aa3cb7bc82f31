"""Worked examples before every question: turns of a conversation, from the training part.

The examples are the first usable rows of the training part. They are taken out of what is learnt
from, and none of them is a question that is evaluated on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dschat.data.rows import decode_example
from dschat.data.schemas.gsm8k import worked_answer
from dschat.data.text import Message
from dschat.settings.command_line import require

Rows = list[dict[str, Any]]


def with_worked_examples(
    train: Iterable[Mapping[str, Any]], held_out: Iterable[Mapping[str, Any]], count: int
) -> tuple[Rows, Rows]:
    """Both parts with `count` questions and answers before the question of every prompt.

    Args:
        train, held_out: rows with a `prompt` of messages that ends with the question, and an
            `example` with question and answer (the schema of GSM8K).

    Returns:
        The training rows without those used as examples, and the held-out rows.

    Raises:
        UserError: the training part has no more than `count` rows that are not held out as well, or
            rows are of another form.
    """
    trained, evaluated = list(map(dict, train)), list(map(dict, held_out))
    questions = {_question(row) for row in evaluated}
    chosen: list[int] = []
    for index, row in enumerate(trained):
        if len(chosen) == count:
            break
        if _question(row) not in questions:
            chosen.append(index)
            questions.add(_question(row))
    require(
        len(chosen) == count and len(trained) > count,
        f"--few_shot {count}: the training part has {len(chosen)} rows of {len(trained)} to show "
        "as examples, and one more is needed to learn from. Lower it or give more data.",
    )
    shots = [message for index in chosen for message in _turns(trained[index])]
    shown = {_question(trained[index]) for index in chosen}
    kept = [row for row in trained if _question(row) not in shown]
    return [_after(row, shots) for row in kept], [_after(row, shots) for row in evaluated]


def _question(row: Mapping[str, Any]) -> str:
    question = decode_example(row.get("example")).get("question")
    require(
        isinstance(row["prompt"], list) and isinstance(question, str),
        "--few_shot needs data with the columns question and answer, as GSM8K has them. Remove it, "
        "or write the examples into the prompts.",
    )
    return str(question).strip()


def _turns(row: Mapping[str, Any]) -> list[Message]:
    """The question as it is asked, and its answer in the format that is asked for."""
    answer = worked_answer(decode_example(row.get("example"))["answer"])
    return [row["prompt"][-1], {"role": "assistant", "content": answer}]


def _after(row: dict[str, Any], shots: list[Message]) -> dict[str, Any]:
    *before, question = row["prompt"]
    return {**row, "prompt": [*before, *shots, question]}
