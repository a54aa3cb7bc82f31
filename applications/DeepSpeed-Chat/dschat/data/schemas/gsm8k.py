"""openai/gsm8k: school mathematics; the answer ends in "#### 72".

Source: Cobbe et al. 2021, arXiv 2110.14168. A raw row: {"question", "answer"}. The reasoning
holds notes for a calculator such as "<<48/2=24>>", which are removed from the text to train on.
Worked examples (`--few_shot`) are turns of the conversation before every question.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dschat.data.rows import Phase, RawRow, Row, RowError, decode_example, text
from dschat.data.schemas.base import Schema, has_columns
from dschat.data.text import Message
from dschat.settings.command_line import require

SYSTEM_PROMPT = (
    "Solve the problem step by step. Respond in this format:\n"
    "<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n"
    "The answer is a number alone."
)
FINAL_ANSWER_MARK = "####"
CALCULATOR_NOTE = re.compile(r"<<[^<>]*>>")


def gsm8k_rows(raw: RawRow, phase: Phase) -> list[Row]:
    """One row: a chat prompt, and a response in the format that the system text asks for."""
    question = text(raw.get("question"), "question")
    answer = text(raw.get("answer"), "answer")
    _, mark, final = answer.rpartition(FINAL_ANSWER_MARK)
    if not mark or not final.strip():
        raise RowError(f"no final answer after {FINAL_ANSWER_MARK!r} in 'answer'")
    prompt = [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": question},
    ]
    if phase == "rl":
        return [Row(prompt, example={"question": question, "answer": answer})]
    return [Row(prompt, worked_answer(answer))]


def worked_answer(answer: str) -> str:
    """The answer of a raw row in the format that the system text asks for."""
    reasoning, _, final = answer.rpartition(FINAL_ANSWER_MARK)
    reasoning = CALCULATOR_NOTE.sub("", reasoning).strip()
    return f"<reasoning>\n{reasoning}\n</reasoning>\n<answer>\n{final.strip()}\n</answer>"


def _matches(sample: Sequence[RawRow]) -> bool:
    answers = (str(row.get("answer")) for row in sample)
    return has_columns("question", "answer")(sample) and any(
        FINAL_ANSWER_MARK in answer for answer in answers
    )


GSM8K = Schema(
    name="gsm8k",
    columns='question, answer (with "#### <number>" at its end)',
    matches=_matches,
    rows=gsm8k_rows,
    chat=True,
    phases=("sft", "rl"),
)


def with_worked_examples(
    train: Iterable[Mapping[str, Any]], held_out: Iterable[Mapping[str, Any]], count: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
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
        "as examples, and one more is needed to train on. Lower it or give more data.",
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
