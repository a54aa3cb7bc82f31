"""openai/webgpt_comparisons: two answers to a question with citations, and their scores.

Source: Nakano et al. 2021, arXiv 2112.09332. A raw row:
{"question": {"dataset", "id", "full_text"}, "answer_0", "answer_1", "score_0", "score_1", ...};
the scores sum to 0, and both are 0 where nobody preferred one answer.
"""

from __future__ import annotations

import re

from dschat.data.rows import (
    Phase,
    RawRow,
    Row,
    RowError,
    distinct_pair,
    mapping,
    number,
    required,
    text,
)
from dschat.data.schemas.base import Schema, has_columns

# " [1]", "[2, 3]". Other brackets are part of the answer.
CITATION = re.compile(r"\s*\[\d+(?:\s*[,;–-]\s*\d+)*\]")


def _response(raw: RawRow, name: str) -> str:
    return " " + text(CITATION.sub("", text(raw.get(name), name)), name).strip()


def webgpt_rows(raw: RawRow, phase: Phase) -> list[Row]:
    """One row; the answer with the higher score is chosen, the first one of equals in SFT.

    Raises:
        RowError: besides missing or empty fields, equal scores in reward modelling.
    """
    question = required(raw, "question")
    # Local copies may have the question's text itself.
    if not isinstance(question, str):
        question = mapping(question, "question").get("full_text")
    prompt = f" Human: {text(question, 'question.full_text')} Assistant:"
    if phase == "rl":
        return [Row(prompt)]
    scores = [number(raw.get(name), name) for name in ("score_0", "score_1")]
    if phase == "reward" and scores[0] == scores[1]:
        raise RowError("equal scores: no answer was preferred")
    better, worse = ("answer_0", "answer_1") if scores[0] >= scores[1] else ("answer_1", "answer_0")
    row = Row(prompt, _response(raw, better), _response(raw, worse) if phase == "reward" else None)
    return [distinct_pair(row) if phase == "reward" else row]


WEBGPT = Schema(
    name="webgpt",
    columns="question (with full_text), answer_0, answer_1, score_0, score_1",
    matches=has_columns("question", "answer_0"),
    rows=webgpt_rows,
)
