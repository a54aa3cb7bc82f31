"""Preference pairs: prompt, chosen, rejected as texts (Dahoas/full-hh-rlhf) or as chat messages.

Raw rows of trl-lib/ultrafeedback_binarized have no prompt of their own: {"chosen": [messages],
"rejected": [messages]} with the same messages but the last. Conversations may also stand as
{"prompt": [messages], "chosen": [message] or text, "rejected": ...}, as in TRL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dschat.data.rows import Phase, RawRow, Row, RowError, distinct_pair, required, text
from dschat.data.schemas.base import Schema, has_columns
from dschat.data.text import Message

CALLS = ("tool_calls", "function_call")
PAIR_FIELDS = {"prompt", "chosen", "rejected"}


def other_fields(raw: RawRow) -> dict[str, Any]:
    """Whatever else a row holds may be what somebody's reward function needs."""
    return {name: value for name, value in raw.items() if name not in PAIR_FIELDS}


def preference_rows(raw: RawRow, phase: Phase) -> list[Row]:
    """One row of texts as they are. SFT needs prompt and chosen; RL needs the prompt."""
    prompt = text(raw.get("prompt"), "prompt")
    if phase == "rl":
        return [Row(prompt, example=other_fields(raw))]
    chosen = text(raw.get("chosen"), "chosen")
    if phase == "sft":
        return [Row(prompt, chosen)]
    return [distinct_pair(Row(prompt, chosen, text(raw.get("rejected"), "rejected")))]


def messages_of(value: Any, name: str) -> list[Message]:
    """`value` as a list of messages that are not blank; see `text`."""
    if not isinstance(value, list) or not all(isinstance(message, Mapping) for message in value):
        raise RowError(f"field {name!r} is not a list of messages")
    if not value:
        raise RowError(f"empty {name!r}")
    if any(message.get(call) for message in value for call in CALLS):
        raise RowError(f"tool calls in {name!r}, which are not supported")
    return [
        {
            "role": text(message.get("role"), f"{name}.role"),
            "content": text(message.get("content"), f"{name}.content"),
        }
        for message in value
    ]


def _own_prompt(raw: RawRow) -> list[Message]:
    """The prompt column's messages; [] where the prompt is the beginning of the conversations.

    Some data sets repeat the first question there as a text: the conversations say more.
    """
    given = raw.get("prompt")
    if given is None or (isinstance(given, str) and isinstance(raw.get("chosen"), list)):
        return []
    return messages_of(given, "prompt")


def _conversation(raw: RawRow, name: str, prompt: list[Message]) -> tuple[list[Message], str]:
    """The messages before the response, and the response's text."""
    value = required(raw, name)
    if isinstance(value, str):
        before, response = [], text(value, name)
    else:
        *before, last = messages_of(value, name)
        if last["role"] != "assistant":
            raise RowError(f"the last message of {name!r} is not the assistant's")
        response = last["content"]
    if not prompt and not before:
        raise RowError(f"no prompt before the response in {name!r}")
    # Beside a prompt, a conversation is the response alone or begins with that prompt.
    if prompt and before not in ([], prompt):
        raise RowError(f"the messages of {name!r} do not follow the prompt")
    return prompt or before, response


def chat_preference_rows(raw: RawRow, phase: Phase) -> list[Row]:
    """One row of messages; the prompt is what comes before the assistant's last message."""
    prompt = _own_prompt(raw)
    if phase == "rl":
        if not prompt:
            prompt, _ = _conversation(raw, "chosen", prompt)
        return [Row(prompt, example=other_fields(raw))]
    prompt_of_chosen, chosen = _conversation(raw, "chosen", prompt)
    if phase == "sft":
        return [Row(prompt_of_chosen, chosen)]
    prompt_of_rejected, rejected = _conversation(raw, "rejected", prompt)
    if prompt_of_chosen != prompt_of_rejected:
        raise RowError("chosen and rejected do not have the same prompt")
    return [distinct_pair(Row(prompt_of_chosen, chosen, rejected))]


def _has_message_lists(sample: Sequence[RawRow]) -> bool:
    return any(isinstance(row.get(name), list) for row in sample for name in ("prompt", "chosen"))


PREFERENCES = Schema(
    name="preferences",
    columns="prompt, chosen, rejected (texts; SFT needs prompt and chosen, RL needs prompt)",
    matches=has_columns("prompt"),
    rows=preference_rows,
)

CHAT_PREFERENCES = Schema(
    name="chat preferences",
    columns="chosen, rejected (lists of messages with role and content; prompt may be one too)",
    matches=_has_message_lists,
    rows=chat_preference_rows,
    chat=True,
)
