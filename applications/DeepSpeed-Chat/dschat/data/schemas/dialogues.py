"""Dialogues written as one text, "\\n\\nHuman: ...\\n\\nAssistant: ...", as in HH-RLHF.

Source: Bai et al. 2022, arXiv 2204.05862 (Anthropic/hh-rlhf), whose files have whole dialogues in
`chosen` and `rejected`; the same marks stand in Dahoas' and WebGPT's prompts, there with a space or
one newline before "Human:".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dschat.data.rows import Phase, RawRow, Row, RowError, distinct_pair, text
from dschat.data.schemas.base import Schema, column_names
from dschat.data.schemas.preferences import other_fields
from dschat.data.text import Message, Prompt

ASSISTANT = "\n\nAssistant:"
_MARK = re.compile(r"(?:^|\n\n?)[ \t]*(Human|Assistant):")
_OPEN = re.compile(r"\s(Assistant):[ \t]*$")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def split_response(dialogue: str) -> tuple[str, str] | None:
    """A dialogue as its prompt, up to and with the last "Assistant:", and the response after it.

    None where the text has no such mark.
    """
    before, mark, response = dialogue.rpartition(ASSISTANT)
    return (before + mark, response) if mark else None


def as_messages(prompt: Prompt) -> list[Message]:
    """A plain prompt as chat messages, for a model that was tuned with a chat template.

    A dialogue becomes its turns, without the marks; any other text becomes one user's turn.
    Messages pass as they are.
    """
    if not isinstance(prompt, str):
        return prompt
    return _turns(prompt) or [{"role": "user", "content": prompt.strip()}]


def _turns(prompt: str) -> list[Message]:
    """The turns of a dialogue that waits for the assistant; [] where the text is none."""
    opened = _OPEN.search(prompt)
    if opened is None:
        return []
    body = prompt[: opened.start()]
    marks = list(_MARK.finditer(body))
    if not marks or body[: marks[0].start()].strip() or marks[0].group(1) != "Human":
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(body)]
    turns = [
        {"role": _ROLES[mark.group(1)], "content": body[mark.end() : end].strip()}
        for mark, end in zip(marks, ends, strict=True)
    ]
    # Templates want turns that alternate and say something.
    expected = ["user", "assistant"] * len(turns)
    alternate = [turn["role"] for turn in turns] == expected[: len(turns)]
    usable = alternate and turns[-1]["role"] == "user" and all(turn["content"] for turn in turns)
    return turns if usable else []


def _split(raw: RawRow, name: str) -> tuple[str, str]:
    parts = split_response(text(raw.get(name), name))
    if parts is None:
        raise RowError(f"no {ASSISTANT!r} in {name!r} and no column 'prompt'")
    return parts[0], text(parts[1], f"response in {name}")


def dialogue_rows(raw: RawRow, phase: Phase) -> list[Row]:
    """One row; the prompt ends with the last "Assistant:" of the dialogues."""
    prompt, chosen = _split(raw, "chosen")
    if phase == "rl":
        return [Row(prompt, example=other_fields(raw))]
    if phase == "sft":
        return [Row(prompt, chosen)]
    prompt_of_rejected, rejected = _split(raw, "rejected")
    if prompt != prompt_of_rejected:
        raise RowError("chosen and rejected do not have the same prompt")
    return [distinct_pair(Row(prompt, chosen, rejected))]


def _has_dialogues(sample: Sequence[RawRow]) -> bool:
    return "prompt" not in column_names(sample) and any(
        isinstance(row.get("chosen"), str) and ASSISTANT in row["chosen"] for row in sample
    )


DIALOGUES = Schema(
    name="dialogues",
    columns='chosen, rejected (texts "\\n\\nHuman: ...\\n\\nAssistant: ..." with the same prompt)',
    matches=_has_dialogues,
    rows=dialogue_rows,
)
