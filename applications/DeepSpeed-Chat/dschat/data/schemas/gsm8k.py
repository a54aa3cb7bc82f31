"""openai/gsm8k: school mathematics; the answer ends in "#### 72".

Source: Cobbe et al. 2021, arXiv 2110.14168. A raw row: {"question", "answer"}. The reasoning
holds notes for a calculator such as "<<48/2=24>>", which are taken out of the text to learn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dschat.data.rows import Phase, RawRow, Row, RowError, text
from dschat.data.schemas.base import Schema, has_columns

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
