"""Conversations and completions as people have them: `messages`, `prompt` and `completion`.

The forms are TRL's "language modeling" and "prompt-completion" data. A message is
{"role", "content"}, or {"from": "human" or "gpt", "value"} as ShareGPT writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dschat.data.rows import Phase, RawRow, Row, RowError, required, text
from dschat.data.schemas.base import Schema, column_names, has_columns
from dschat.data.schemas.preferences import messages_of
from dschat.data.text import Message

_NAMES = ("messages", "conversations")
_SHAREGPT = {"human": "user", "gpt": "assistant", "system": "system"}


def _conversation(raw: RawRow) -> list[Message]:
    name = next((name for name in _NAMES if raw.get(name) is not None), _NAMES[0])
    value = required(raw, name)
    if isinstance(value, list) and all(isinstance(m, Mapping) and m.get("from") for m in value):
        value = [
            {"role": _SHAREGPT.get(str(m["from"]), m["from"]), "content": m.get("value")}
            for m in value
        ]
    return messages_of(value, name)


def messages_rows(raw: RawRow, phase: Phase) -> list[Row]:
    """In SFT a row for each turn of the assistant; in RL one, up to the assistant's last turn."""
    conversation = _conversation(raw)
    answers = [i for i, m in enumerate(conversation) if m["role"] == "assistant" and i > 0]
    if phase == "rl":
        prompt = conversation[:-1] if conversation[-1]["role"] == "assistant" else conversation
        if not prompt:
            raise RowError("no prompt before the assistant's message")
        return [Row(prompt, example={k: v for k, v in raw.items() if k not in _NAMES})]
    if not answers:
        raise RowError("no message of the assistant's after a prompt")
    return [Row(conversation[:i], conversation[i]["content"]) for i in answers]


def completion_rows(raw: RawRow, phase: Phase) -> list[Row]:
    """One row of texts as they are; in RL the completion is an example's, for the reward."""
    prompt = text(raw.get("prompt"), "prompt")
    if phase == "rl":
        return [Row(prompt, example=_example(raw))]
    _require_good(raw)
    return [Row(prompt, text(raw.get("completion"), "completion"))]


def chat_completion_rows(raw: RawRow, phase: Phase) -> list[Row]:
    """One row of messages; the completion is one message of the assistant's, or its text."""
    value = required(raw, "prompt")
    prompt = (
        [{"role": "user", "content": text(value, "prompt")}]
        if isinstance(value, str)
        else messages_of(value, "prompt")
    )
    if phase == "rl":
        return [Row(prompt, example=_example(raw))]
    _require_good(raw)
    completion = required(raw, "completion")
    if isinstance(completion, str):
        return [Row(prompt, text(completion, "completion"))]
    *between, last = messages_of(completion, "completion")
    if last["role"] != "assistant":
        raise RowError("the last message of 'completion' is not the assistant's")
    return [Row([*prompt, *between], last["content"])]


def _example(raw: RawRow) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if name != "prompt"}


def _require_good(raw: RawRow) -> None:
    """Data of unpaired preferences say of each completion whether it is a good one."""
    if raw.get("label") in (False, 0):
        raise RowError("the completion is labelled as a bad one ('label' is false)")


def _has_lists(sample: Sequence[RawRow], *names: str) -> bool:
    return any(isinstance(row.get(name), list) for row in sample for name in names)


def _is_chat_completion(sample: Sequence[RawRow]) -> bool:
    return has_columns("prompt", "completion")(sample) and _has_lists(
        sample, "prompt", "completion"
    )


def _is_messages(sample: Sequence[RawRow]) -> bool:
    return _has_lists(sample, *_NAMES) and "chosen" not in column_names(sample)


CHAT_COMPLETIONS = Schema(
    name="chat completions",
    columns="prompt, completion (lists of messages with role and content)",
    matches=_is_chat_completion,
    rows=chat_completion_rows,
    chat=True,
    phases=("sft", "rl"),
)

COMPLETIONS = Schema(
    name="completions",
    columns="prompt, completion (texts)",
    matches=has_columns("prompt", "completion"),
    rows=completion_rows,
    phases=("sft", "rl"),
)

CONVERSATIONS = Schema(
    name="conversations",
    columns="messages (a list of messages with role and content)",
    matches=_is_messages,
    rows=messages_rows,
    chat=True,
    phases=("sft", "rl"),
)
