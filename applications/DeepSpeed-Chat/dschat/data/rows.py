"""The row that every data source is brought to, and what can be wrong with a raw one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from dschat.data.text import Prompt

Phase: TypeAlias = Literal["sft", "reward", "rl"]
PHASES: tuple[Phase, ...] = ("sft", "reward", "rl")
RawRow: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One normalised row.

    `chosen` is the response to learn in SFT and the better one in reward modelling; `rejected` is
    the worse one. Either is None where the source has none or the phase needs none. `example` has
    the raw fields that a reward function needs, in RL.
    """

    prompt: Prompt
    chosen: str | None = None
    rejected: str | None = None
    example: dict[str, Any] = field(default_factory=dict)


class RowError(Exception):
    """This raw row cannot be used; the message names the kind of problem, without the row's text.

    Rows with the same message are counted together.
    """


def required(raw: RawRow, name: str) -> Any:
    """The field `name`, which may not be absent or null."""
    value = raw.get(name)
    if value is None:
        raise RowError(f"missing field {name!r}")
    return value


def text(value: Any, name: str) -> str:
    """`value` as a text that is not blank; `name` is for the problem's message."""
    if value is None:
        raise RowError(f"missing field {name!r}")
    if not isinstance(value, str):
        raise RowError(f"field {name!r} is not a string")
    if not value.strip():
        raise RowError(f"empty {name!r}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        # JSON can spell half of a character (a lone surrogate); no tokenizer takes it.
        raise RowError(f"field {name!r} is not valid Unicode") from error
    return value


def mapping(value: Any, name: str) -> Mapping[str, Any]:
    """`value` as an object with fields; see `text`."""
    if value is None:
        raise RowError(f"missing field {name!r}")
    if not isinstance(value, Mapping):
        raise RowError(f"field {name!r} is not an object")
    return value


def number(value: Any, name: str) -> float:
    """`value` as a number; see `text`."""
    if value is None:
        raise RowError(f"missing field {name!r}")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise RowError(f"field {name!r} is not a number") from error


def distinct_pair(row: Row) -> Row:
    """The row, if its two responses differ: equal ones cannot teach a preference."""
    if row.chosen == row.rejected:
        raise RowError("chosen and rejected are the same")
    return row


def encode_example(example: Mapping[str, Any]) -> str:
    """The `example` column holds JSON: rows of different sources then share one column type."""
    return json.dumps(dict(example), default=str)


def decode_example(encoded: str | None) -> dict[str, Any]:
    """The raw fields in an `example` column; {} where there are none."""
    return json.loads(encoded) if encoded else {}
